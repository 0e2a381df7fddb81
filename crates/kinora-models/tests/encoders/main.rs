//! Text and image encoders beside their originals: whole, and cut over ranks.

mod clip_text;
mod clip_vision;
mod run;
mod t5;
