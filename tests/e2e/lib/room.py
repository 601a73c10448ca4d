"""A program of somebody else's, which tries what it should not be able to in the room of run --sandbox,
and says of each whether it could.

    python3 room.py SECRET_FILE AGENTKEYS_FOLDER OUTSIDE_FOLDER TCP_PORT UDP_PORT UNIX_SOCKET PROCESS

Prints "NAME: through" or "NAME: held"; and last what it can do of what it should.
"""
import ctypes
import errno
import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import termios
import urllib.request

secret, folder, outside, tcp, udp, unix, process = sys.argv[1:8]
tcp, udp, process = int(tcp), int(udp), int(process)
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def call(number, *arguments):
    """Whether a system call is let in: any error but a refusal says so."""
    return libc.syscall(number, *arguments) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EACCES)


def opens(kind, *address):
    with socket.socket(*kind) as made:
        made.settimeout(2)
        if address:
            made.connect(*address)
    return True


def fast_open():
    with socket.socket() as made:
        made.sendto(b"x", 0x20000000, ("127.0.0.1", tcp))
    return True


def datagram_pair():
    """One end of a pair, pointed at another socket by its path."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        one.connect(unix)
    except OSError as error:
        # What is at the path is no datagram socket: it was found all the same.
        return error.errno == errno.EPROTOTYPE
    return True


def listens():
    with socket.socket() as made:
        made.listen()
    return True


def binds():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
    return True


def writes(path):
    with open(os.path.join(path, "written"), "w") as file:
        file.write("x")
    return True


def traces(pid):
    # PTRACE_SEIZE, which stops nothing; the end of this program lets go.
    return libc.ptrace(0x4206, pid, None, None) == 0


def signals(pid):
    os.kill(pid, 0)
    return True


def types_into_the_terminal():
    try:
        fcntl.ioctl(0, termios.TIOCSTI, b" ")
    except OSError as error:
        # No terminal is here, so the kernel had to look whether it is one.
        return error.errno in (errno.ENOTTY, errno.EIO)
    return True


def environment():
    return any(name in os.environ for name in ("MY_SECRET_TOKEN", "SSH_AUTH_SOCK", "AWS_PROFILE"))


tries = {
    "reads a file of its user's": lambda: open(secret).read() != "",
    "lists what AgentKeys keeps": lambda: os.listdir(folder) != [],
    "looks at other terminals": lambda: os.listdir("/dev/pts") is not None,
    "looks at shared memory": lambda: os.listdir("/dev/shm") is not None,
    "reads another process's environment": lambda: open(f"/proc/{process}/environ").read() != "",
    "writes outside its folder": lambda: writes(outside),
    "connects to another port": lambda: opens((socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", tcp)),
    "connects to it by MPTCP": lambda: opens((socket.AF_INET, socket.SOCK_STREAM, 262), ("127.0.0.1", tcp)),
    "connects to it with what it sends": fast_open,
    "sends a datagram": lambda: opens((socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", udp)),
    "connects to a Unix socket": lambda: opens((socket.AF_UNIX, socket.SOCK_STREAM), unix),
    "points a pair at a Unix socket": datagram_pair,
    "asks the kernel for routes": lambda: opens((socket.AF_NETLINK, socket.SOCK_RAW)),
    "listens": listens,
    "binds a port": binds,
    "makes a ring": lambda: call(425, 1, ctypes.byref(ctypes.create_string_buffer(120))),
    "traces another process": lambda: traces(process),
    "signals another process": lambda: signals(process),
    "types into the terminal": types_into_the_terminal,
    "finds a descriptor that was left open": lambda: os.path.exists("/proc/self/fd/9"),
    "finds a credential in its environment": environment,
    # Last, since it changes who this program is.
    "makes a user namespace": lambda: call(272, 0x10000000),
}
for name, attempt in tries.items():
    try:
        through = attempt()
    except OSError:
        through = False
    print(f"{name}: {'through' if through else 'held'}", flush=True)

# What a program needs goes on working.
with open("own", "w") as file:
    file.write("x")
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
assert subprocess.run(["sh", "-c", "cat own | tr x y"], capture_output=True, check=True).stdout == b"y"
one, other = socket.socketpair()
one.sendall(b"x")
assert other.recv(1) == b"x"
if base := os.environ.get("MY_API_BASE_URL"):
    asked = urllib.request.Request(f"{base}/plain", headers={"authorization": f"Bearer {os.environ['MY_API_API_KEY']}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        print("the gateway answers:", answer.status)
