//! Shows a person how far a pull is.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;

use hull_image::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Bars on a terminal, lines elsewhere, nothing when nobody wants to see it.
#[derive(Debug)]
pub(crate) struct Bars {
    what: String,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Quiet,
    Lines(Mutex<Vec<String>>),
    Bars(MultiProgress, Mutex<Vec<ProgressBar>>),
}

impl Bars {
    /// Shows the progress of `what`.
    pub(crate) fn new(what: String, quiet: bool) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if stderr().is_terminal() {
            Mode::Bars(MultiProgress::new(), Mutex::default())
        } else {
            Mode::Lines(Mutex::default())
        };
        Self { what, mode }
    }

    fn line(&self, text: &str) {
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines(_) => eprintln!("hull: {}: {text}", self.what),
            Mode::Bars(all, _) => {
                // A terminal that cannot be written to shows nothing.
                let _ = all.println(format!("{}: {text}", self.what));
            }
        }
    }

    fn layers(&self, layers: &[hull_image::LayerSize]) {
        let short =
            |layer: &hull_image::LayerSize| layer.digest.hex().chars().take(12).collect::<String>();
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines(names) => {
                *lock(names) = layers.iter().map(short).collect();
                let missing = layers.iter().filter(|layer| !layer.present);
                let (count, bytes) = missing.fold((0, 0), |(n, b), layer| (n + 1, b + layer.bytes));
                if count > 0 {
                    let size = crate::values::size::human(bytes);
                    self.line(&format!(
                        "{count} of {} layers to take, {size}",
                        layers.len()
                    ));
                }
            }
            Mode::Bars(all, bars) => {
                let style = "{prefix} {bar:30} {bytes:>10} / {total_bytes:10} {msg}";
                let style = ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> ");
                let bar = |layer: &hull_image::LayerSize| {
                    if layer.present {
                        return ProgressBar::hidden();
                    }
                    let bar = all.add(ProgressBar::new(layer.bytes).with_style(style.clone()));
                    bar.with_prefix(short(layer))
                };
                *lock(bars) = layers.iter().map(bar).collect();
            }
        }
    }

    fn on_bar(&self, layer: usize, change: impl FnOnce(&ProgressBar)) {
        if let Mode::Bars(_, bars) = &self.mode
            && let Some(bar) = lock(bars).get(layer)
        {
            change(bar);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Waiting => self.line("waiting for another process that takes the same layers"),
            Event::Layers(layers) => self.layers(layers),
            Event::Fetched { layer, bytes } => self.on_bar(layer, |bar| {
                bar.set_message("fetching");
                bar.set_position(bytes);
            }),
            Event::Unpacking { layer, bytes } => self.on_bar(layer, |bar| {
                bar.set_message("unpacking");
                bar.set_position(bytes);
            }),
            Event::Unpacked { layer } => {
                self.on_bar(layer, |bar| bar.finish_with_message("done"));
                if let Mode::Lines(names) = &self.mode {
                    let name = lock(names).get(layer).cloned().unwrap_or_default();
                    self.line(&format!("layer {name} done"));
                }
            }
            // Rootless unpacking drops owners and devices all the time; the store's log has them.
            Event::Note { .. } => {}
        }
    }
}
