//! What a file is by its name: media, sound, captions, or none of these.

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Media,
    Sound,
    Text,
    Json,
    Other,
}

// Kinds that this build does not decode are media too, so that they are named rather than overlooked.
const MEDIA: [&str; 25] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "wmv", "flv", "3gp", "ogv",
    "png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff", "avif", "heic", "jxl", "apng",
];
const SOUND: [&str; 8] = ["ogg", "oga", "opus", "wav", "mp3", "m4a", "flac", "aac"];

/// The role of a file with this extension.
pub(crate) fn role(extension: &str) -> Role {
    let extension = extension.to_ascii_lowercase();
    let extension = extension.as_str();
    if MEDIA.contains(&extension) {
        Role::Media
    } else if SOUND.contains(&extension) {
        Role::Sound
    } else if matches!(extension, "txt" | "caption") {
        Role::Text
    } else if extension == "json" {
        Role::Json
    } else {
        Role::Other
    }
}

/// A file name before its last dot, and what is behind it.
pub(crate) fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(0) | None => (name, ""),
        Some(at) => (&name[..at], &name[at + 1..]),
    }
}

/// Whether a place is a URL.
pub(crate) fn is_url(place: &str) -> bool {
    place.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        for (name, expected) in [
            ("a.MP4", Role::Media),
            ("b.c.jpeg", Role::Media),
            ("b.flac", Role::Sound),
            ("b.caption", Role::Text),
            ("b.json", Role::Json),
            ("README", Role::Other),
            (".png", Role::Other),
        ] {
            assert_eq!(role(split(name).1), expected, "{name}");
        }
        assert!(is_url("https://a/b.mp4") && !is_url("a/b.mp4") && !is_url("C:/a"));
    }
}
