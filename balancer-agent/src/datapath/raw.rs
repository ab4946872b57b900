//! Lets the shared types travel through aya's maps.

/// A shared type as aya wants it. `bytemuck::Pod` promises all that `aya::Pod` asks for; neither
/// trait is ours to implement for the other's types.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Raw<T>(pub T);

// SAFETY: `bytemuck::Pod` types are `Copy`, 'static, without padding, and valid for any bytes.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}
