//! One data root, one storage driver after the other.

use berth_api::ApiVersion;
use berth_api::container::CreateRequest;
use berth_api::filters::Filters;
use berth_api::options::ListOptions;

use crate::kit::{Dirs, Open, picture};

/// The version whose prune takes named volumes too.
const OLD: ApiVersion = ApiVersion::new(1, 41);

/// Creates a container named `box` on the volume `data`.
fn create(open: &Open, image: &str) -> String {
    let body = format!(
        r#"{{"Image": "{image}", "Cmd": ["/file"],
            "HostConfig": {{"NetworkMode": "none", "Binds": ["data:/data"]}}}}"#
    );
    let request = CreateRequest::from_json(body.as_bytes()).unwrap();
    let name = Some("box".to_owned());
    let made = open.engine().create_container(name, None, request, ApiVersion::MAX);
    open.block_on(made).unwrap().id
}

fn containers(open: &Open) -> Vec<String> {
    let options = ListOptions { all: true, ..ListOptions::default() };
    let list = open.block_on(open.engine().list_containers(options)).unwrap();
    list.into_iter().map(|container| container.id).collect()
}

fn hidden(open: &Open) -> Option<String> {
    let info = open.block_on(open.engine().info(ApiVersion::MAX)).unwrap();
    info.warnings.iter().find(|warning| warning.contains("hidden")).cloned()
}

fn prune_everything(open: &Open) {
    let (engine, all) = (open.engine(), r#"{"dangling":["false"]}"#);
    open.block_on(engine.prune_containers(Filters::default())).unwrap();
    open.block_on(engine.prune_images(Filters::parse(all).unwrap())).unwrap();
    open.block_on(engine.prune_volumes(Filters::default(), OLD)).unwrap();
}

#[test]
fn root_a_driver_sees_and_touches_its_own_only() {
    let Some(dirs) = Dirs::new("root_a_driver_sees_and_touches_its_own_only") else { return };
    let first = dirs.open_on("overlay2").unwrap();
    let images = first.import(b"the same bytes");
    let container = create(&first, "test");
    assert_eq!((containers(&first), hidden(&first)), (vec![container.clone()], None));
    drop(first);
    let own = dirs.data_root().join("overlay2");
    let before = picture(&own);

    for _ in 0..2 {
        let second = dirs.open_on("vfs").unwrap();
        assert_eq!((second.images(), containers(&second)), (vec![], vec![]));
        let expected = "WARNING: 1 images and 1 containers of other storage drivers (overlay2) are \
                        hidden; they are back when the daemon is started with theirs";
        assert_eq!(hidden(&second).as_deref(), Some(expected));
        // The same layer, the same names: none of it is the other driver's.
        assert_eq!(second.import(b"the same bytes").len(), 1);
        let twin = create(&second, "test");
        assert_eq!(containers(&second), [twin]);
        prune_everything(&second);
        assert_eq!((second.images(), containers(&second)), (vec![], vec![]));
    }
    assert!(picture(&own) == before, "a byte of the other driver's has changed");
    assert!(dirs.data_root().join("volumes/data").is_dir(), "its container's volume is gone");

    let first = dirs.open_on("overlay2").unwrap();
    assert_eq!((first.images(), containers(&first)), (images, vec![container]));
    assert_eq!(hidden(&first), None);
    let saved = open_saved(&first);
    assert!(saved.windows(14).any(|bytes| bytes == b"the same bytes"), "it cannot be saved");
    prune_everything(&first);
    assert_eq!((first.images(), containers(&first)), (vec![], vec![]));
    assert!(!dirs.data_root().join("volumes/data").is_dir());
}

/// What `docker save` of the image gives.
fn open_saved(open: &Open) -> Vec<u8> {
    open.block_on(async {
        let mut stream = open.engine().save_images(vec!["test".to_owned()]).await.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = stream.recv().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    })
}
