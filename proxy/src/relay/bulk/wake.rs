//! When the kernel wakes a reader.

#![expect(unsafe_code, reason = "of the crates that wrap setsockopt none has this option")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A reader of this socket is woken once there are so many bytes, or the end. Where so many are there
/// already it is woken now.
///
/// Source: socket(7), `SO_RCVLOWAT`; `tcp_set_rcvlowat` in Linux.
///
/// # Errors
///
/// The system's.
pub(super) fn wake_at(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: of the value as many bytes are read as it has, during the call.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
