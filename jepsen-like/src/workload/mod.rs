//! Clients at work. What they do is drawn before the run and is data ([`Step`]); every operation is recorded before it
//! is sent and after it is answered.

mod draw;
mod draws;
mod register;
mod step;

pub use draw::draw;
pub use draws::Draws;
pub use register::{key, perform, put_get_delete, read_all};
pub use step::{Naming, Place, PlannedAction, PlannedList, Rudeness, Step, UploadName, bucket_name, key_name};
