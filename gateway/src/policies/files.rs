//! Policy documents in files.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use meridian_policies::rules::Source;

/// Most files of one folder: ten times what a large platform has.
const FILES_MAX: usize = 1000;
/// Longest file read, in bytes; longer ones are refused as too long when they are compiled.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// Reads a file, `-` for stdin, or the YAML and JSON files of a folder in the order of their names. Hidden files are
/// left out: editors and mounted config maps keep other versions in them.
///
/// # Errors
/// The system's, with the file's name; or there are more files than a folder may have.
pub fn read(path: &Path) -> io::Result<Vec<Source>> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().lock().take(FILE_LEN_MAX).read_to_string(&mut text)?;
        return Ok(vec![Source { file: "stdin".to_owned(), text }]);
    }
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![one(path)?]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let is_document = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_document && !is_hidden {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(io::Error::other(format!("the folder has more than {FILES_MAX} policy files")));
        }
    }
    paths.sort();
    paths.iter().map(PathBuf::as_path).map(one).collect()
}

fn one(path: &Path) -> io::Result<Source> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_string(&mut text));
    read.map_err(|why| io::Error::new(why.kind(), format!("{name}: {why}")))?;
    Ok(Source { file: name, text })
}
