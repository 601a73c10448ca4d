//! How many connections there may be, in all and from one address.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::peer::Peer;

/// Counts connections. Only accepting and closing touch it, never a request.
pub struct Gate {
    most: usize,
    most_each: usize,
    most_unix: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Those over TCP.
    far: usize,
    /// By network; the Unix socket's one user is `None`.
    each: HashMap<Option<IpAddr>, usize>,
}

/// One connection's place; dropping it gives it back.
pub struct Place {
    gate: Arc<Gate>,
    whose: Option<IpAddr>,
}

impl Gate {
    /// A gate for `most` connections over TCP, `most_each` from one address, and `most_unix` besides.
    pub fn new(most: usize, most_each: usize, most_unix: usize) -> Arc<Self> {
        Arc::new(Self { most, most_each, most_unix, open: Mutex::default() })
    }

    /// A place for a connection of `peer`, if there is one left.
    pub fn enter(self: &Arc<Self>, peer: &Peer) -> Option<Place> {
        let whose = match peer {
            Peer::Address(address) => Some(network(*address)),
            Peer::Unix(_) => None,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let each = open.each.get(&whose).copied().unwrap_or(0);
        // The Unix socket's places are its own: strangers from the network must not keep the
        // machine's user from revoking.
        let full = match whose {
            Some(_) => open.far >= self.most || each >= self.most_each,
            None => each >= self.most_unix,
        };
        if full {
            return None;
        }
        open.far += usize::from(whose.is_some());
        open.each.insert(whose, each + 1);
        Some(Place { gate: Arc::clone(self), whose })
    }
}

/// Whose places an address takes: an IPv6 host has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.far -= usize::from(self.whose.is_some());
        match open.each.get_mut(&self.whose) {
            Some(each) if *each > 1 => *each -= 1,
            _ => drop(open.each.remove(&self.whose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::peer::UnixPeer;

    #[test]
    fn a_whole_ipv6_network_is_one_address_and_a_mapped_one_is_its_ipv4() {
        let gate = Gate::new(9, 1, 1);
        let enter = |text: &str| gate.enter(&Peer::Address(text.parse().unwrap()));
        let _one = enter("2001:db8:0:1::1").unwrap();
        assert!(enter("2001:db8:0:1:ffff::2").is_none());
        let _two = enter("2001:db8:0:2::1").unwrap();
        let _three = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("::ffff:192.0.2.2").is_some());
    }

    #[test]
    fn one_address_cannot_take_every_place_and_places_come_back() {
        let gate = Gate::new(3, 2, 1);
        let from = |last| Peer::Address([127, 0, 0, last].into());
        let one = gate.enter(&from(1));
        let two = gate.enter(&from(1));
        assert!(one.is_some() && two.is_some());
        assert!(gate.enter(&from(1)).is_none());
        let three = gate.enter(&from(2));
        assert!(three.is_some());
        assert!(gate.enter(&from(3)).is_none());
        drop(one);
        let again = gate.enter(&from(1));
        assert!(again.is_some());
        // However many came over the network, the machine's own user has places.
        let unix = UnixPeer { uid: 1, pid: None, process: None, program: None };
        let local = gate.enter(&Peer::Unix(unix.clone()));
        assert!(local.is_some());
        assert!(gate.enter(&Peer::Unix(unix)).is_none());
        drop((two, three, again, local));
        assert!(gate.open.lock().unwrap().each.is_empty());
    }
}
