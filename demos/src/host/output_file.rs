//! Files that a run writes: refused before anything starts if they cannot be written, and as they were if it does not start.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Failure,
    failure::{Result, at},
};

/// A file that can be written, and still has its contents.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    /// What it is for, as the user said it.
    option: String,
    /// `None` once it has been taken.
    file: Option<File>,
    metadata: Metadata,
    is_new: bool,
}

impl OutputFile {
    /// Opens the file at `path` for what `option` says.
    ///
    /// # Errors
    /// It cannot be written, or it is one of `others`, or one of the files in `inputs`.
    pub fn open(
        path: &Path,
        option: impl Into<String>,
        others: &[&Self],
        inputs: &[PathBuf],
    ) -> Result<Self> {
        let option = option.into();
        let open = || {
            let mut options = File::options();
            options.write(true);
            match options.clone().create_new(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Ok((options.open(path)?, false))
                }
                result => Ok((result?, true)),
            }
        };
        let refused = at(format!("{option} {}", path.display()));
        let (file, is_new) = open().map_err(refused)?;
        let metadata = file.metadata().map_err(at(path.display()))?;
        // From here on the file goes away with the value.
        let opened = Self {
            path: path.to_owned(),
            option,
            file: Some(file),
            metadata,
            is_new,
        };
        if let Some(other) = others.iter().find(|other| opened.is_same(&other.metadata)) {
            let what = format!(
                "the same file is for {} and {}",
                other.option, opened.option
            );
            return Err(Failure::input(
                what,
                path.display(),
                "give each a file of its own",
            ));
        }
        for input in inputs {
            if fs::metadata(input).is_ok_and(|input| opened.is_same(&input)) {
                let what = format!("{} would overwrite what the run reads", opened.option);
                return Err(Failure::input(what, path.display(), "give another file"));
            }
        }
        Ok(opened)
    }

    /// Terminals, pipes and `/dev/null` can be shared.
    fn is_same(&self, other: &Metadata) -> bool {
        let place = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        self.metadata.is_file() && place(&self.metadata) == place(other)
    }

    /// The run starts: the file is emptied, and stays.
    pub fn commit(mut self) -> Result<File> {
        self.is_new = false;
        let file = self.file.take().expect("it is taken once");
        if self.metadata.is_file() {
            file.set_len(0).map_err(at(self.path.display()))?;
        }
        Ok(file)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.is_new {
            // It was not there before, and nothing has been written.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nothing_is_left_of_a_run_that_does_not_start() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let [new, old] = ["new", "old"].map(|name| directory.path().join(name));
        fs::write(&old, "before").expect("room for a file");
        for path in [&new, &old] {
            drop(OutputFile::open(path, "--log", &[], &[]).expect("it can be written"));
        }
        assert!(!new.exists());
        assert_eq!(fs::read(&old).expect("it is there"), b"before");
        for path in [&new, &old] {
            let file = OutputFile::open(path, "--log", &[], &[]).expect("it can be written");
            let mut file = file.commit().expect("it can be emptied");
            file.write_all(b"x").expect("room for a byte");
            assert_eq!(fs::read(path).expect("it is there"), b"x");
        }
    }

    #[test]
    fn one_file_has_one_purpose() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("file");
        let log = OutputFile::open(&path, "--log", &[], &[]).expect("it can be written");
        let other_name = directory.path().join(".").join("file");
        let stats = OutputFile::open(&other_name, "--stats", &[&log], &[]);
        let failure = stats.expect_err("the same file").to_string();
        assert!(failure.contains("--log and --stats"), "{failure}");
        let stats = OutputFile::open(&path, "--stats", &[], std::slice::from_ref(&path));
        assert!(stats.is_err_and(|failure| failure.to_string().contains("overwrite")));
        assert!(path.exists(), "it is still there for its first purpose");
    }

    #[test]
    fn what_is_no_file_can_be_shared() {
        let null = Path::new("/dev/null");
        let log = OutputFile::open(null, "--log", &[], &[]).expect("it takes anything");
        let stats = OutputFile::open(null, "--stats", &[&log], &[]).expect("it takes anything");
        assert!(log.commit().is_ok() && stats.commit().is_ok());
        assert!(OutputFile::open(Path::new("/"), "--log", &[], &[]).is_err());
    }
}
