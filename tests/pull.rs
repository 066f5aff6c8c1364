//! Images that a real containerd pulls from a real registry, and Hull runs. It is another one than containerd has
//! already, of whose contents it would pull none.

use std::slice;

use harness::containerd::{Containerd, RUNTIME};
use harness::cri::Cri;
use harness::debian;
use harness::docker_registry::{ADDRESS, ALIAS, DockerRegistry};
use k8s_cri::v1::{
    ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest, RemoveImageRequest,
};

#[tokio::test]
async fn a_kubelet_pulls_runs_and_removes_an_image() {
    let containerd = Containerd::new();
    let registry = DockerRegistry::start(&containerd);
    registry.push(&debian(), "app:1");
    let mut cri = Cri::connect(&containerd).await;
    let name = format!("{ALIAS}/app:1");
    let image = Some(ImageSpec {
        image: name.clone(),
        ..Default::default()
    });
    let status = ImageStatusRequest {
        image: image.clone(),
        verbose: false,
    };
    let before = cri.images().image_status(status.clone()).await;
    assert_eq!(before.expect("an answer").into_inner().image, None);

    let mut missing = name.clone();
    missing.push_str("-missing");
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: missing,
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = cri.images().pull_image(request).await;
    let refused = refused.expect_err("there is none");
    assert!(refused.message().contains("not found"), "{refused}");

    let request = PullImageRequest {
        image: image.clone(),
        ..Default::default()
    };
    let pulled = cri.images().pull_image(request).await.expect("pulled");
    let id = pulled.into_inner().image_ref;
    let after = cri.images().image_status(status.clone()).await;
    let known = after.expect("an answer").into_inner().image.expect("known");
    assert_eq!(known.repo_tags, slice::from_ref(&name));
    // What a pull answers with is the image's id or its digest, by containerd's version.
    let digests = &known.repo_digests;
    assert!(known.id == id || digests.contains(&id), "{id}: {known:?}");

    let pod = cri.run_pod("pulled").await;
    let mut config = Cri::container_config("c", &["sleep", "1000"]);
    config.image.clone_from(&image);
    let container = cri.start(&pod, config).await;
    let release = cri.exec(&container, &["cat", "/etc/os-release"]).await.ok();
    assert!(release.contains("ID=debian"), "{release}");
    cri.remove_pod(&pod).await;

    let request = RemoveImageRequest {
        image: image.clone(),
    };
    let removed = cri.images().remove_image(request).await;
    removed.expect("removed");
    let list = cri.images().list_images(ListImagesRequest::default()).await;
    let list = list.expect("a list").into_inner().images;
    let mut tags = list.iter().flat_map(|image| &image.repo_tags);
    assert!(!tags.any(|tag| *tag == name), "{list:?}");
    containerd.assert_no_pods();
}

#[test]
fn ctr_pulls_and_runs_an_image() {
    let containerd = Containerd::new();
    let registry = DockerRegistry::start(&containerd);
    registry.push(&debian(), "app:1");
    let name = format!("{ADDRESS}/app:1");
    let pull = ["images", "pull", "--plain-http", name.as_str()];
    let _ = containerd.ctr(pull).ok();
    let run = [
        "run",
        "--rm",
        "--runtime",
        RUNTIME,
        &name,
        "c",
        "cat",
        "/etc/os-release",
    ];
    let release = containerd.ctr(run).ok();
    assert!(release.contains("ID=debian"), "{release}");
    containerd.assert_no_pods();
}
