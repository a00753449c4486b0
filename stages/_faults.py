"""Errors that a user can mend, in words that say what to do next."""

from __future__ import annotations

import errno
from pathlib import Path

from convirt.errors import InputError, quoted

# no permission, a file system mounted read-only, a file where a folder should be or the reverse
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)

# flock on a file system without locks
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def explained(error: BaseException, root: Path) -> InputError | None:
    """An error that a user can mend, else None.

    An `InputError` is returned as it is. Others become one: a full disk, or a place that cannot be
    locked, read or written.
    """
    if isinstance(error, InputError):
        return error
    if _disk_full(error):
        hint = "free some space (`dvc gc -w` drops old outputs), then run the same command"
        return InputError(root, "room to write", f"{error}", hint)
    if isinstance(error, OSError) and error.errno in NO_LOCKS:
        hint = "mount that disk with flock (Lustre: -o flock), or keep the checkout on another one"
        return InputError(root, "a disk on which files can be locked", f"{error}", hint)
    if isinstance(error, OSError) and error.errno in NO_ACCESS and error.filename:
        wanted = "a file or folder that this stage may read and write"
        hint = f"ls -ld {quoted(error.filename)}, correct what it shows, then run the same command"
        return InputError(error.filename, wanted, error.strerror or f"{error}", hint)
    return None


def _disk_full(error: BaseException) -> bool:
    """Whether `error` means a full disk; safetensors and arrow say so only in the message."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
