//! Pulling from a registry, a good one and bad ones.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::sync::{Arc, Mutex};

use hull_image::registry::{Login, RegistryConfig, RegistryError};
use hull_image::{
    Credentials, Digest, ErrorKind, Event, ImageError, LayerError, Progress, PullOptions,
    Registries, Silent, StoreOptions,
};
use support::registry::{Auth, Content, Registry};
use support::{INDEX_TYPE, ImageParts, Layer, LayerBuilder, MANIFEST_TYPE, TestStore, descriptor};

fn image(text: &str) -> ImageParts {
    let lower = LayerBuilder::new().file("lower", b"l").bytes();
    let upper = LayerBuilder::new().file("upper", text.as_bytes()).bytes();
    ImageParts::new(vec![Layer::gzip(&lower), Layer::zstd(&upper)])
}

fn anonymous() -> PullOptions {
    PullOptions {
        registries: Registries::default(),
        credentials: Credentials::Anonymous,
    }
}

fn logged_in(user: &str) -> PullOptions {
    PullOptions {
        registries: Registries::default(),
        credentials: Credentials::Given(Login {
            user: user.to_owned(),
            password: "p".to_owned(),
        }),
    }
}

async fn pull(
    test: &TestStore,
    registry: &Registry,
    name: &str,
    options: &PullOptions,
) -> Result<hull_image::Image, ImageError> {
    let name = registry.name(name);
    test.store.pull(&name, options, Arc::new(Silent)).await
}

fn digest_of_layer(image: &ImageParts, index: usize) -> Digest {
    Digest::of(&image.layers[index].blob)
}

/// Whatever a failed pull brought must be gone.
fn assert_empty(test: &TestStore) {
    assert_eq!(test.content(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once() {
    let test = TestStore::new();
    let parts = image("x");
    let registry = Registry::start(Content::of("v1", &parts)).await;
    let pulled = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap();
    assert_eq!(fs::read(pulled.layers[0].join("upper")).unwrap(), b"x");
    assert_eq!(fs::read(pulled.layers[1].join("lower")).unwrap(), b"l");
    assert_eq!(pulled.digest, Some(Digest::of(&parts.manifest)));
    assert_eq!(pulled.reference, format!("{}/app:v1", registry.address));
    let again = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap();
    assert_eq!(again.id, pulled.id);
    for layer in 0..2 {
        let digest = digest_of_layer(&parts, layer).to_string();
        assert_eq!(registry.count(&digest), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_adds_up() {
    #[derive(Default)]
    struct Watch(Mutex<Vec<String>>);
    impl Progress for Watch {
        fn event(&self, event: Event<'_>) {
            let line = match event {
                Event::Layers(layers) => format!("layers {}", layers.len()),
                Event::Fetched { layer, bytes } => format!("fetched {layer} {bytes}"),
                Event::Unpacked { layer } => format!("unpacked {layer}"),
                Event::Waiting | Event::Unpacking { .. } | Event::Note { .. } => return,
            };
            self.0.lock().unwrap().push(line);
        }
    }
    let test = TestStore::new();
    let parts = image("x");
    let registry = Registry::start(Content::of("v1", &parts)).await;
    let watch = Arc::new(Watch::default());
    let progress = Arc::clone(&watch);
    test.store
        .pull(&registry.name("app:v1"), &anonymous(), progress)
        .await
        .unwrap();
    let seen = watch.0.lock().unwrap();
    assert_eq!(seen[0], "layers 2");
    for (index, layer) in parts.layers.iter().enumerate() {
        assert!(seen.contains(&format!("fetched {index} {}", layer.blob.len())));
        assert!(seen.contains(&format!("unpacked {index}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_this_hosts_variant() {
    let test = TestStore::new();
    let ours = image("ours");
    let theirs = ImageParts::for_arch("s390x", image("theirs").layers);
    let mut content = Content::of("other", &ours);
    content.add(&theirs);
    let entry = |parts: &ImageParts, os: &str, architecture: &str| {
        let mut entry = descriptor(MANIFEST_TYPE, &parts.manifest);
        entry["platform"] = serde_json::json!({ "os": os, "architecture": architecture });
        entry
    };
    let index = |entries: Vec<serde_json::Value>| {
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries })
            .to_string()
    };
    let both = index(vec![
        entry(&theirs, "unknown", "unknown"),
        entry(&theirs, "linux", "s390x"),
        entry(&ours, "linux", "amd64"),
    ]);
    content.tag("both", INDEX_TYPE, both.as_bytes());
    let neither = index(vec![entry(&theirs, "linux", "s390x")]);
    content.tag("neither", INDEX_TYPE, neither.as_bytes());
    content.tag("plain", MANIFEST_TYPE, &theirs.manifest);
    let registry = Registry::start(content).await;

    let pulled = pull(&test, &registry, "app:both", &anonymous())
        .await
        .unwrap();
    assert_eq!(fs::read(pulled.layers[0].join("upper")).unwrap(), b"ours");
    assert_eq!(pulled.digest, Some(Digest::of(both.as_bytes())));
    for tag in ["app:neither", "app:plain"] {
        let error = pull(&test, &registry, tag, &anonymous()).await.unwrap_err();
        assert!(
            matches!(&error, ImageError::NoPlatform { available, .. }
                if available.iter().map(ToString::to_string).eq(["linux/s390x"])),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_the_door() {
    let parts = image("x");
    for auth in [Auth::Basic, Auth::Bearer] {
        let mut content = Content::of("v1", &parts);
        content.auth = auth;
        let registry = Registry::start(content).await;
        let test = TestStore::new();
        for (options, had) in [(anonymous(), false), (logged_in("wrong"), true)] {
            let error = pull(&test, &registry, "app:v1", &options)
                .await
                .unwrap_err();
            assert!(
                matches!(error, ImageError::Unauthorized { logged_in, .. } if logged_in == had),
                "{error}"
            );
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert_empty(&test);
        }
        pull(&test, &registry, "app:v1", &logged_in("u"))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_files() {
    let mut content = Content::of("v1", &image("x"));
    content.auth = Auth::Bearer;
    let registry = Registry::start(content).await;
    let test = TestStore::new();
    let file = test.path("config.json");
    let json = serde_json::json!({ "auths": { registry.address.to_string(): { "auth": "dTpw" } } });
    fs::write(&file, json.to_string()).unwrap();
    let options = PullOptions {
        registries: Registries::default(),
        credentials: Credentials::Files(vec![file.clone()]),
    };
    pull(&test, &registry, "app:v1", &options).await.unwrap();
    fs::write(&file, "nonsense").unwrap();
    let error = pull(&test, &registry, "app:v1", &options)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Credentials { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let test = TestStore::new();
    let registry = Registry::start(Content::of("v1", &image("x"))).await;
    for name in ["app:v2", "none:v1", &format!("app@{}", Digest::of(b"none"))] {
        let error = pull(&test, &registry, name, &anonymous())
            .await
            .unwrap_err();
        assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    }
    assert_empty(&test);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_a_registry_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/app", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(listener);
    let test = TestStore::new();
    let result = test.store.pull(&name, &anonymous(), Arc::new(Silent)).await;
    let error = result.unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::Registry {
                source: RegistryError::Unreachable { .. },
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_must_have_the_digest_asked_for() {
    let test = TestStore::new();
    let parts = image("x");
    let mut content = Content::of("v1", &parts);
    let asked = Digest::of(b"something else");
    content.tag(&asked.to_string(), MANIFEST_TYPE, &parts.manifest);
    let registry = Registry::start(content).await;
    let error = pull(&test, &registry, &format!("app@{asked}"), &anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { expected, actual, .. }
            if expected == asked && actual == Digest::of(&parts.manifest)),
        "{error}"
    );
    let right = format!("app@{}", Digest::of(&parts.manifest));
    pull(&test, &registry, &right, &anonymous()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_must_have_the_digest_and_size_that_the_manifest_says() {
    let parts = image("x");
    let layer = digest_of_layer(&parts, 1).to_string();
    let mut wrong = parts.layers[1].blob.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let longer = [&parts.layers[1].blob[..], b"more"].concat();
    for (blob, is_digest) in [(wrong, true), (longer, false)] {
        let test = TestStore::new();
        let mut content = Content::of("v1", &parts);
        content.blobs.insert(layer.clone(), blob);
        let registry = Registry::start(content).await;
        let error = pull(&test, &registry, "app:v1", &anonymous())
            .await
            .unwrap_err();
        match error {
            ImageError::DigestMismatch { expected, .. } if is_digest => {
                assert_eq!(expected.to_string(), layer);
            }
            ImageError::SizeMismatch { .. } if !is_digest => {}
            other => panic!("{other}"),
        }
        assert_empty(&test);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_must_have_its_digest() {
    let test = TestStore::new();
    let parts = image("x");
    let mut content = Content::of("v1", &parts);
    let config = Digest::of(&parts.config).to_string();
    let mut wrong = parts.config.clone();
    wrong[0] = b' ';
    content.blobs.insert(config, wrong);
    let registry = Registry::start(content).await;
    let error = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert_empty(&test);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_is_the_registrys_fault() {
    let test = TestStore::new();
    let parts = image("x");
    let mut content = Content::of("v1", &parts);
    content
        .blobs
        .remove(&digest_of_layer(&parts, 0).to_string());
    let registry = Registry::start(content).await;
    let error = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::Registry {
                source: RegistryError::NotFound(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(test.store.list().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_must_be_what_the_configuration_says() {
    let test = TestStore::new();
    let mut layers = image("x").layers;
    layers[0].diff_id = Digest::of(b"another");
    let registry = Registry::start(Content::of("v1", &ImageParts::new(layers))).await;
    let error = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::Layer {
                source: LayerError::DiffId { .. },
                ..
            }
        ),
        "{error}"
    );
    assert_empty(&test);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_taken_up_again() {
    let content = vec![7; 300_000];
    let tar = LayerBuilder::new().file("big", &content).bytes();
    let parts = ImageParts::new(vec![Layer::plain(&tar)]);
    let digest = digest_of_layer(&parts, 0).to_string();
    for no_ranges in [false, true] {
        let test = TestStore::new();
        let mut served = Content::of("v1", &parts);
        served.cuts.insert(digest.clone(), 2);
        served.no_ranges = no_ranges;
        let registry = Registry::start(served).await;
        let pulled = pull(&test, &registry, "app:v1", &anonymous())
            .await
            .unwrap();
        assert_eq!(fs::read(pulled.layers[0].join("big")).unwrap(), content);
        assert_eq!(registry.count(&digest), 3);
        assert_eq!(registry.count("bytes="), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_always_cut_fails() {
    let test = TestStore::new();
    let parts = image("x");
    let mut content = Content::of("v1", &parts);
    content
        .cuts
        .insert(digest_of_layer(&parts, 0).to_string(), u32::MAX);
    let registry = Registry::start(content).await;
    let error = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::Registry {
                source: RegistryError::Interrupted { .. },
                ..
            }
        ),
        "{error}"
    );
    assert!(test.store.list().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_before_the_network_failed_is_not_fetched_again() {
    let test = TestStore::with(StoreOptions {
        parallel_layers: 1,
        ..StoreOptions::default()
    });
    let parts = image("x");
    let [first, second] = [0, 1].map(|index| digest_of_layer(&parts, index).to_string());
    let mut content = Content::of("v1", &parts);
    content.cuts.insert(second.clone(), u32::MAX);
    let registry = Registry::start(content).await;
    pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    registry.content.lock().unwrap().cuts.clear();
    pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap();
    assert_eq!(registry.count(&first), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_end_is_cut_off() {
    let test = TestStore::new();
    let mut content = Content::of("v1", &image("x"));
    content.endless_manifest = true;
    let registry = Registry::start(content).await;
    let error = pull(&test, &registry, "app:v1", &anonymous())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let parts = image("x");
    let origin = Registry::start(Content::of("v1", &parts)).await;
    let good = Registry::start(Content::of("v1", &parts)).await;
    let mut broken = Content::of("v1", &parts);
    broken.blobs.clear();
    let broken = Registry::start(broken).await;
    let options = |mirrors: &[&Registry]| {
        let mut options = anonymous();
        let config = RegistryConfig {
            mirrors: mirrors
                .iter()
                .map(|mirror| format!("http://{}", mirror.address))
                .collect(),
            ..RegistryConfig::default()
        };
        let registries = &mut options.registries.registry;
        registries.insert(origin.address.to_string(), config);
        options
    };
    let test = TestStore::new();
    pull(&test, &origin, "app:v1", &options(&[&good]))
        .await
        .unwrap();
    assert_eq!(origin.count("GET"), 0);
    let test = TestStore::new();
    pull(&test, &origin, "app:v1", &options(&[&broken]))
        .await
        .unwrap();
    assert!(broken.count("manifests") > 0);
    assert_eq!(origin.count("blobs"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_fetch_each_layer_once() {
    let test = TestStore::new();
    let parts = image("x");
    let registry = Registry::start(Content::of("v1", &parts)).await;
    let options = anonymous();
    let other = hull_image::Store::open(test.store.root(), hull_image::StoreOptions::default());
    let other = other.unwrap();
    let name = registry.name("app:v1");
    let (a, b) = tokio::join!(
        test.store.pull(&name, &options, Arc::new(Silent)),
        other.pull(&name, &options, Arc::new(Silent))
    );
    assert_eq!(a.unwrap().layers, b.unwrap().layers);
    for layer in 0..2 {
        assert_eq!(
            registry.count(&digest_of_layer(&parts, layer).to_string()),
            1
        );
    }
}
