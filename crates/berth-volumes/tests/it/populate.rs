//! Filling a volume from an image.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_volumes::mounts::{ContainerMount, Request, resolve};

use crate::kit::{Kit, named, put};

fn mount(spec: &str) -> ContainerMount {
    let mounts = resolve(&Request {
        binds: &[spec.to_owned()],
        mounts: &[],
        tmpfs: &BTreeMap::new(),
        volumes: &[],
        volumes_from: &[],
        volume_driver: "",
        data_root: Path::new("/no/such/root"),
    });
    mounts.unwrap().remove(0)
}

#[test]
fn root_an_empty_volume_gets_the_images_files() {
    if !testkit::is_root() {
        return testkit::skip("root_an_empty_volume_gets_the_images_files", "root");
    }
    let kit = Kit::new();
    let rootfs = kit.dir().join("rootfs");
    std::fs::create_dir_all(rootfs.join("srv/www/sub")).unwrap();
    put(&rootfs.join("srv/www/index"), "hello");
    put(&rootfs.join("srv/www/sub/x"), "x");
    put(&rootfs.join("srv/file"), "x");
    std::os::unix::fs::symlink("/srv/www", rootfs.join("link")).unwrap();
    std::os::unix::fs::chown(rootfs.join("srv/www"), Some(33), Some(34)).unwrap();
    for name in ["one", "two", "three"] {
        kit.store.create(&named(name)).unwrap();
    }
    let data = kit.root().join("one/_data");
    let inode = std::fs::metadata(&data).unwrap().ino();
    let filled = |spec: &str| kit.store.populate(&mount(spec), &rootfs);
    assert!(filled("one:/srv/www").unwrap());
    assert_eq!(std::fs::read_to_string(data.join("index")).unwrap(), "hello");
    assert_eq!(std::fs::read_to_string(data.join("sub/x")).unwrap(), "x");
    let meta = std::fs::metadata(&data).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.ino()), (33, 34, inode));
    assert_eq!(meta.mtime_nsec(), std::fs::metadata(rootfs.join("srv/www")).unwrap().mtime_nsec());
    assert!(!filled("one:/srv/www").unwrap(), "it is not empty");
    assert!(!filled("two:/srv/www:nocopy").unwrap());
    assert!(!filled("two:/nowhere/at/all").unwrap());
    assert!(filled("two:/link:ro").unwrap(), "links are followed inside the image");
    assert_eq!(
        filled("three:/srv/file").unwrap_err().to_string(),
        format!("source {} is not directory", rootfs.join("srv/file").display())
    );
    let anonymous = mount("/srv/file");
    let error = kit.store.populate(&anonymous, &rootfs).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot mount volume over existing file, file exists {}",
            rootfs.join("srv/file").display()
        )
    );
    assert!(kit.tree().iter().all(|path| !path.contains(".berth")));
}
