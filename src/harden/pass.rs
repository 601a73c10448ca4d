//! Hands open descriptors to another process over a Unix socket, as ancillary data of one message
//! (`SCM_RIGHTS`, unix(7)).
//!
//! Must never let one through that is not close-on-exec, nor leave one behind that nobody owns.
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Most descriptors of one message.
pub const MOST: usize = 3;

/// Room for the ancillary data of `MOST` descriptors, aligned as the kernel wants it.
#[repr(C)]
union Ancillary {
    header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Bytes of ancillary data that `number` descriptors take, and of the header with them.
fn lengths(number: usize) -> (libc::c_uint, libc::c_uint) {
    // At most 3 descriptors of 4 bytes.
    let payload = u32::try_from(number * size_of::<RawFd>()).unwrap_or(0);
    // SAFETY: these compute from an integer.
    unsafe { (libc::CMSG_SPACE(payload), libc::CMSG_LEN(payload)) }
}

/// Sends `bytes`, and copies of `descriptors` with their first byte. The socket takes all or
/// nothing of a message as small as this; it may be in non-blocking mode.
///
/// # Errors
/// Those of `sendmsg`; `InvalidInput` for no bytes, or for more than three descriptors;
/// `WriteZero` where the socket took a part.
pub fn send_with(to: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd]) -> io::Result<()> {
    if bytes.is_empty() || descriptors.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (space, length) = lengths(descriptors.len());
    let mut ancillary = Ancillary { bytes: [0; 64] };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zeros are a valid msghdr; every pointer put into it outlives the call, `ancillary`
    // has room for `space` (at most CMSG_SPACE(12) = 32) bytes, and the kernel only reads.
    let sent = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if !descriptors.is_empty() {
            message.msg_control = (&raw mut ancillary).cast();
            message.msg_controllen = space as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = length as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (at, descriptor) in descriptors.iter().enumerate() {
                data.add(at).write_unaligned(descriptor.as_raw_fd());
            }
        }
        libc::sendmsg(to.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Receives into `buffer`, and the descriptors that came with it, close-on-exec. No bytes mean
/// that the other end is closed.
///
/// # Errors
/// Those of `recvmsg`; `InvalidData` for more descriptors than one message may have. Whatever
/// came with it is closed then.
pub fn receive_with(from: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let (space, _) = lengths(MOST);
    let mut ancillary = Ancillary { bytes: [0; 64] };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: as in `send_with`; the kernel writes at most `iov_len` bytes into `buffer` and at
    // most `space` into `ancillary`.
    let (received, message) = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut ancillary).cast();
        message.msg_controllen = space as _;
        let received = libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        (received, message)
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled `message` and what it points to, which both still live; each
    // descriptor is new to this process and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let (_, none) = lengths(0);
                let bytes = ((*header).cmsg_len as usize).saturating_sub(none as usize);
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((received, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_arrive_in_order_with_their_message_and_close_on_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let pairs: Vec<_> = (0..MOST).map(|_| UnixStream::pair().unwrap()).collect();
        let ends: Vec<_> = pairs.iter().map(|(_, end)| end.as_fd()).collect();
        send_with(&here, b"three\n", &ends).unwrap();
        send_with(&here, b"none\n", &[]).unwrap();
        let mut buffer = [0; 64];
        let (length, came) = receive_with(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], came.len()), (&b"three\n"[..], MOST));
        for (at, end) in came.into_iter().enumerate() {
            // SAFETY: the flags of an open descriptor are read, nothing else.
            let flags = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
            UnixStream::from(end).write_all(&[u8::try_from(at).unwrap()]).unwrap();
        }
        for (at, (mut ours, _)) in pairs.into_iter().enumerate() {
            let mut byte = [9];
            ours.read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), at);
        }
        let (length, came) = receive_with(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], came.len()), (&b"none\n"[..], 0));
        drop(here);
        assert_eq!(receive_with(&there, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn nothing_without_a_byte_and_no_more_descriptors_than_there_is_room_for() {
        let (here, _there) = UnixStream::pair().unwrap();
        assert!(send_with(&here, b"", &[]).is_err());
        assert!(send_with(&here, b"x", &[here.as_fd(); MOST + 1]).is_err());
    }
}
