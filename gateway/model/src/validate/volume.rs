//! Volumes: names, exactly one source, and what each source needs.

use std::{collections::BTreeSet, net::IpAddr};

use super::{CONFIG_FILES_LEN_MAX, CONFIG_FILES_MAX, Faults, VOLUMES_MAX, cut, is_dns_name, is_inner_path};
use crate::instance::{ConfigFile, InstanceSpec, Nfs, Volume};

/// Mode bits of a file: owner, group, others.
const MODE_MAX: u32 = 0o777;

pub(super) fn volumes(spec: &InstanceSpec, faults: &mut Faults) {
    faults.count("/spec/volumes", spec.volumes.len(), VOLUMES_MAX);
    let mut names = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().enumerate().take(VOLUMES_MAX) {
        let at = format!("/spec/volumes/{i}");
        faults.dns_label(&format!("{at}/name"), "the volume", &volume.name);
        faults.unique(&mut names, &volume.name, || format!("{at}/name"));
        source(volume, &at, faults);
    }
}

fn source(volume: &Volume, at: &str, faults: &mut Faults) {
    let given = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("disk", volume.disk.is_some()),
        ("configFile", volume.config_file.is_some()),
    ];
    faults.exactly_one(at, "the volume", &given);
    if volume.empty_dir.as_ref().and_then(|d| d.size_limit).is_some_and(|s| s.0 == 0) {
        let hint = "leave it out for the platform's default";
        faults.add(format!("{at}/emptyDir/sizeLimit"), "out-of-range", "the size must be more than 0", hint);
    }
    if let Some(nfs) = &volume.nfs {
        share(nfs, &format!("{at}/nfs"), faults);
    }
    if volume.disk.as_ref().is_some_and(|d| d.disk_id.trim().is_empty()) {
        faults.add(format!("{at}/disk/diskId"), "required", "the disk has no id", "");
    }
    if let Some(files) = &volume.config_file {
        config_file(files, &format!("{at}/configFile"), faults);
    }
}

fn share(nfs: &Nfs, at: &str, faults: &mut Faults) {
    if nfs.server.is_empty() {
        faults.add(format!("{at}/server"), "required", "the share has no server", "a host name or address");
    } else if !is_dns_name(&nfs.server.to_ascii_lowercase()) && nfs.server.parse::<IpAddr>().is_err() {
        let detail = format!("{:?} is neither a host name nor an address", cut(&nfs.server));
        faults.add(format!("{at}/server"), "not-an-address", detail, "");
    }
    if !nfs.path.starts_with('/') {
        faults.add(format!("{at}/path"), "invalid-path", "the exported path must be absolute", "begin it with '/'");
    }
}

fn config_file(files: &ConfigFile, at: &str, faults: &mut Faults) {
    if files.items.is_empty() {
        faults.add(format!("{at}/items"), "required", "the volume has no file", "give at least one");
    }
    faults.count(&format!("{at}/items"), files.items.len(), CONFIG_FILES_MAX);
    faults.range(format!("{at}/defaultMode"), files.default_mode, &(0..=MODE_MAX));
    let mut paths = BTreeSet::new();
    for (i, item) in files.items.iter().enumerate().take(CONFIG_FILES_MAX) {
        let pointer = format!("{at}/items/{i}/path");
        if is_inner_path(&item.path) {
            faults.unique(&mut paths, &item.path, || pointer);
        } else {
            let detail = format!("{:?} is not a path inside the volume", cut(&item.path));
            faults.add(pointer, "invalid-path", detail, "use a relative path without '..'");
        }
        faults.range(format!("{at}/items/{i}/mode"), item.mode, &(0..=MODE_MAX));
    }
    let total: usize = files.items.iter().map(|f| f.content.len()).sum();
    if total > CONFIG_FILES_LEN_MAX {
        let detail = format!("{total} bytes of files; at most {CONFIG_FILES_LEN_MAX} are taken");
        faults.add(format!("{at}/items"), "too-large", detail, "put large files on a share or into the image");
    }
}
