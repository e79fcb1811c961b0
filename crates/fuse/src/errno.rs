//! The error that a front end answers with: a number that the caller of the system call sees.

use std::fmt;

/// An errno that the kernel accepts in a reply: 1 to 511.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $value:expr),* $(,)?) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self($value);
            )*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)*
                    other => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, EBADF = 9, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19,
    ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOTTY = 25, ETXTBSY = 26,
    EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EMLINK = 31, EPIPE = 32, ERANGE = 34,
    ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40, EBADR = 53, ENODATA = 61, EOVERFLOW = 75,
    EOPNOTSUPP = 95, ENOTCONN = 107, ESTALE = 116, EUCLEAN = 117, EDQUOT = 122, ECANCELED = 125,
}

impl Errno {
    /// The errno of that number; `EIO` when the kernel would not accept it.
    pub const fn new(number: i32) -> Self {
        match number {
            1..=511 => Self(number),
            _ => Self::EIO,
        }
    }

    /// The positive number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::new(errno.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_the_kernel_refuses_become_eio() {
        for number in [0, -5, 512, i32::MIN, i32::MAX] {
            assert_eq!(Errno::new(number), Errno::EIO);
        }
        assert_eq!(Errno::new(28), Errno::ENOSPC);
        assert_eq!(format!("{:?}", Errno::ENOSPC), "ENOSPC");
    }
}
