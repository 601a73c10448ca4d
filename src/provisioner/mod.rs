//! Gets a key of a service by a recipe: a program beside the agent that goes through the service's
//! own pages in a browser.
//!
//! Three processes have a part in it. Whoever wants the key ([`run`]: the daemon, or `agentkeys
//! provisioner check`) talks to the recipe over a socket of their own. The **supervisor**
//! ([`supervise`]) starts the recipe, and sees to it that nothing of it is left. The recipe itself
//! is a Node program. The key goes from the recipe to whoever wanted it, and nowhere else: the
//! daemon's helper, which starts the supervisor, passes the sockets on and keeps none of them.
//!
//! Must never: know the vault's rules, write a secret anywhere, or repeat what a recipe wrote
//! without having cleaned it.
mod failure;
mod found;
mod launch;
mod protocol;
mod run;
mod supervise;

pub use found::services;
pub use launch::{Ends, Theirs, launch, start};
pub use run::{Done, Mode, Task, carry_out};
pub use supervise::supervise;
