// SPDX-License-Identifier: Apache-2.0
//! Paths of an archive's entries, taken apart once and for all.

/// `NAME_MAX` and `PATH_MAX` less its NUL (`include/uapi/linux/limits.h`).
const NAME_MAX: usize = 255;
pub(crate) const PATH_MAX: usize = 4095;

/// Why a path is no path inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It could lead out of the image.
    #[error("it has \"..\" in it")]
    Parent,
    /// No file can have that name.
    #[error("it has a NUL in it")]
    Nul,
    /// No file can have that name.
    #[error("it has a name of more than {NAME_MAX} bytes")]
    LongName,
    /// It could not be opened, and would nest without end.
    #[error("it has more than {PATH_MAX} bytes")]
    Long,
}

/// The names on the way from the root: none for the root itself. A leading `/`, `.` and
/// empty components mean nothing, as for tar.
///
/// # Errors
/// See [`PathError`].
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError::Long);
    }
    let mut names = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(PathError::Parent),
            name if name.contains(&0) => return Err(PathError::Nul),
            name if name.len() > NAME_MAX => return Err(PathError::LongName),
            name => names.push(name),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_many_spellings_and_none_leads_out() {
        let names: Result<Vec<&[u8]>, _> = Ok(vec![b"usr", b"b in\xff"]);
        for path in [
            &b"usr/b in\xff"[..],
            b"./usr//b in\xff/",
            b"/usr/./b in\xff/.",
        ] {
            assert_eq!(components(path), names);
        }
        assert_eq!(components(b"./"), Ok(Vec::new()));
        assert_eq!(components(b"a/../b"), Err(PathError::Parent));
        assert_eq!(components(b"a\0b"), Err(PathError::Nul));
        assert_eq!(components(&[b'a'; 256]), Err(PathError::LongName));
        assert_eq!(components(&b"a/".repeat(2048)), Err(PathError::Long));
    }
}
