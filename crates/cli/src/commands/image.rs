//! `hull images`, `hull pull`, `hull load` and `hull rmi`.

use std::path::PathBuf;

use hull_image::{Image, Reference, Removal};
use serde_json::{Value, json};

use super::table::{cell, table};
use super::{CommandError, Context, print};
use crate::arguments::{ImagesArgs, LoadArgs, PullArgs, RmiArgs};
use crate::images;
use crate::progress::Bars;
use crate::timestamp::Timestamp;
use crate::values::{platform, size};

/// `hull images`.
pub(crate) fn images(context: &Context, args: &ImagesArgs) -> Result<u8, CommandError> {
    let images = images::open(&context.locations, None)?.list()?;
    if args.json {
        let all = images.iter().map(|image| {
            json!({
                "reference": image.reference,
                "id": image.id.to_string(),
                "digest": image.digest.map(|digest| digest.to_string()),
                "created": image.created,
                "size_bytes": image.size_bytes,
                "layers": image.layers.len(),
            })
        });
        return print(&format!("{:#}\n", Value::Array(all.collect())));
    }
    if args.ids {
        let ids = images.iter().map(|image| format!("{}\n", short(image)));
        return print(&ids.collect::<String>());
    }
    let rows = images.iter().map(|image| {
        let created = image
            .created
            .as_deref()
            .and_then(|text| text.parse::<Timestamp>().ok());
        vec![
            cell(&image.reference, 70),
            short(image),
            created.map_or(String::new(), |time| format!("{} ago", time.age())),
            size::human(image.size_bytes),
        ]
    });
    let rows: Vec<_> = rows.collect();
    print(&table(&["IMAGE", "ID", "CREATED", "SIZE"], &rows))
}

/// The part of an id that is shown to people.
fn short(image: &Image) -> String {
    image.id.hex().chars().take(12).collect()
}

/// `hull pull`.
pub(crate) async fn pull(context: &Context, args: &PullArgs) -> Result<u8, CommandError> {
    let platform = args.platform.as_deref().map(platform::parse).transpose();
    let platform = platform.map_err(CommandError::Usage)?;
    let store = images::open(&context.locations, platform.as_ref())?;
    for text in &args.images {
        let reference: Reference = text.parse().map_err(hull_image::ImageError::from)?;
        let image = images::fetch(&store, &reference, context.quiet).await?;
        print(&format!("{}\n", image.reference))?;
    }
    Ok(0)
}

/// `hull load`.
pub(crate) async fn load(context: &Context, args: &LoadArgs) -> Result<u8, CommandError> {
    let store = images::open(&context.locations, None)?;
    let file = args
        .input
        .clone()
        .unwrap_or_else(|| PathBuf::from("/dev/stdin"));
    let bars = Bars::new(file.display().to_string(), context.quiet);
    let loading = tokio::task::spawn_blocking(move || store.load_archive(&file, &bars));
    for image in loading.await.expect("loading does not panic")? {
        print(&format!("{}\n", image.reference))?;
    }
    Ok(0)
}

/// `hull rmi`.
pub(crate) async fn rmi(context: &Context, args: &RmiArgs) -> Result<u8, CommandError> {
    context.sweep().await?;
    let store = images::open(&context.locations, None)?;
    let removal = match args.force {
        true => Removal::Force,
        false => Removal::IfUnused,
    };
    for image in &args.images {
        store.remove(image, removal)?;
        print(&format!("{image}\n"))?;
    }
    Ok(0)
}
