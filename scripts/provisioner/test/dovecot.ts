/**
 * A private IMAP and LMTP server: Debian's dovecot in a folder of its own, on ports of this
 * machine. Every user has the same password, and mail for user+tag goes to user.
 *
 *     node dist/test/dovecot.js
 *
 * prints {"imap", "imaps", "ca", "lmtp", "user", "password"} and stays until its stdin is closed; it leaves
 * nothing behind.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, connect, type AddressInfo } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const PASSWORD = "mailbox-password-of-the-tests";
const PROGRAMS = ["/usr/sbin/dovecot", "/usr/local/sbin/dovecot", "/sbin/dovecot"];

export interface Server {
  imap: string;
  /** The same over TLS, with a certificate that only `ca`, a file, vouches for. */
  imaps: string;
  ca: string;
  lmtp: { host: string; port: number };
  user: string;
  password: string;
  close(): Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Starts one, and waits until it answers. */
export async function dovecot(): Promise<Server> {
  const program = PROGRAMS.find((path) => existsSync(path));
  if (program === undefined) throw new Error("no dovecot: apt-get install dovecot-imapd dovecot-lmtpd");
  const folder = await mkdtemp(join(tmpdir(), "agentkeys-dovecot."));
  // It reads no mail as root, so root's is run as nobody.
  const root = process.getuid?.() === 0;
  const user = root ? "nobody" : userInfo().username;
  const group = root ? "nogroup" : execFileSync("id", ["-gn"], { encoding: "utf8" }).trim();
  const ids = root ? { uid: 65534, gid: 65534 } : {};
  const [imap, imaps, lmtp] = [await freePort(), await freePort(), await freePort()];
  const [key, certificate] = [join(folder, "key.pem"), join(folder, "certificate.pem")];
  const made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const into = ["-days", "2", "-keyout", key, "-out", certificate];
  execFileSync("openssl", [...made, ...named, ...into], { stdio: "ignore" });
  const config = join(folder, "dovecot.conf");
  const none = ["auth", "auth-worker", "config", "dict", "stats", "log", "anvil"];
  await writeFile(
    config,
    `
protocols = imap lmtp
listen = 127.0.0.1
base_dir = ${folder}/run
state_dir = ${folder}/state
log_path = ${folder}/log
default_internal_user = ${user}
default_internal_group = ${group}
default_login_user = ${user}
ssl = yes
ssl_cert = <${certificate}
ssl_key = <${key}
disable_plaintext_auth = no
mail_location = maildir:${folder}/mail/%n
recipient_delimiter = +
first_valid_uid = 1
auth_username_format = %Ln
lmtp_hdr_delivery_address = original
passdb {
  driver = static
  args = password=${PASSWORD}
}
userdb {
  driver = static
  args = uid=${user} gid=${group} home=${folder}/home/%n allow_all_users=yes
}
namespace inbox {
  inbox = yes
  mailbox Junk {
    auto = create
    special_use = \\Junk
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = ${imap}
  }
  inet_listener imaps {
    port = ${imaps}
    ssl = yes
  }
}
service lmtp {
  inet_listener lmtp {
    port = ${lmtp}
  }
}
${none.map((name) => `service ${name} {\n  chroot =\n}`).join("\n")}
`,
  );
  for (const part of ["", "run", "state", "mail", "home"]) {
    await mkdir(join(folder, part), { recursive: true });
    await chmod(join(folder, part), 0o700);
    if (root) await chown(join(folder, part), 65534, 65534);
  }
  await chmod(config, 0o644);
  await chmod(certificate, 0o644);
  if (root) await chown(key, 65534, 65534);
  const child = spawn(program, ["-F", "-c", config], { stdio: ["ignore", "ignore", "pipe"], ...ids });
  let said = "";
  child.stderr?.on("data", (part) => (said += part));
  const end = async () => {
    await ended(child);
    await rm(folder, { recursive: true, force: true });
  };
  for (let tries = 0; !(await answers(imap)) || !(await answers(lmtp)); tries += 1) {
    if (child.exitCode !== null || tries > 200) {
      const log = await readFile(join(folder, "log"), "utf8").catch(() => "");
      await end();
      throw new Error(`dovecot does not start: ${said}${log}`);
    }
    await sleep(50);
  }
  return {
    imap: `imap://127.0.0.1:${imap}`,
    imaps: `imaps://localhost:${imaps}`,
    ca: certificate,
    lmtp: { host: "127.0.0.1", port: lmtp },
    user: "ada",
    password: PASSWORD,
    close: end,
  };
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "data", { signal: AbortSignal.timeout(1_000) });
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const over = once(child, "exit");
  child.kill("SIGTERM");
  const killer = setTimeout(() => child.kill("SIGKILL"), 3_000);
  await over;
  clearTimeout(killer);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const server = await dovecot();
  const { imap, imaps, ca, lmtp, user, password } = server;
  const told = { imap, imaps, ca, lmtp: `${lmtp.host}:${lmtp.port}`, user, password };
  console.log(JSON.stringify(told));
  process.stdin.resume().on("end", () => void server.close().then(() => process.exit()));
}
