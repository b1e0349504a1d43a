//! Threads, seeds, determinism and devices: the one place that sets libtorch's process-wide state.

use std::path::Path;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::kind::Element;
use tch::{Device, Kind, TchError, Tensor};
use tlm::stage::StageError;
use tlm::stage::action::{Action, Failure, FailureKind};

/// Sets threads and seed for an action and returns its device.
pub(crate) fn prepare(action: &Action) -> Result<Device, StageError> {
    tch::set_num_threads(i32::try_from(action.threads.max(1)).unwrap_or(1));
    tch::manual_seed(i64::from_le_bytes(action.seed.to_le_bytes()));
    match action.device.as_str() {
        "cpu" => Ok(Device::Cpu),
        name => name
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .filter(|&index: &usize| {
                usize::try_from(tch::Cuda::device_count()).is_ok_and(|count| index < count)
            })
            .map(Device::Cuda)
            .ok_or_else(|| {
                StageError::environment(format!("there is no device `{name}` on this machine"))
                    .help("choose another `device` in the recipe's `run` block")
            }),
    }
}

/// Returns as many threads as libtorch has.
pub(crate) fn pool() -> Result<Arc<ThreadPool>, StageError> {
    let count = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    ThreadPoolBuilder::new()
        .num_threads(count)
        .build()
        .map(Arc::new)
        .map_err(|e| StageError::environment(format!("can't start {count} threads: {e}")))
}

/// Returns the kind of numbers that `dtype` means.
pub(crate) fn kind(dtype: &str) -> Kind {
    match dtype {
        "bf16" => Kind::BFloat16,
        "f16" => Kind::Half,
        _ => Kind::Float,
    }
}

/// Returns a failed tensor operation as a stage's failure.
#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
pub(crate) fn fault(error: TchError) -> StageError {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or("libtorch failed").to_owned();
    if text.contains("out of memory") || text.contains("can't allocate memory") {
        return StageError::environment(format!("not enough memory: {first}"))
            .help("set a smaller `micro_batch` in the recipe's `run` block");
    }
    StageError::Failed(Failure {
        kind: FailureKind::Internal,
        message: format!("a tensor operation failed: {first}"),
        help: None,
    })
}

/// Returns a tensor's numbers as little-endian f32 bytes.
pub(crate) fn f32_bytes(tensor: &Tensor) -> Result<Vec<u8>, TchError> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let count = tensor.numel();
    let mut bytes = vec![0; count * 4];
    tensor.f_copy_data_u8(&mut bytes, count)?;
    Ok(bytes)
}

/// Returns a tensor's numbers.
pub(crate) fn f32_values(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    let bytes = f32_bytes(tensor)?;
    Ok(bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect())
}

/// Returns a tensor's numbers where they lie.
///
/// # Panics
/// When it isn't contiguous, on the CPU and of this kind.
pub(crate) fn numbers<T: Element>(tensor: &Tensor) -> &[T] {
    check_lies_flat::<T>(tensor);
    #[expect(unsafe_code, reason = "libtorch's memory has no safe form")]
    // SAFETY: as many numbers of this kind lie there as long as the tensor lives.
    unsafe {
        std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel())
    }
}

/// The same, to write them. Nobody may use other views of the tensor meanwhile.
///
/// # Panics
/// As [`numbers`].
pub(crate) fn numbers_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    check_lies_flat::<T>(tensor);
    #[expect(unsafe_code, reason = "libtorch's memory has no safe form")]
    // SAFETY: as many numbers of this kind lie there as long as the tensor lives, which is borrowed mutably.
    unsafe {
        std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel())
    }
}

fn check_lies_flat<T: Element>(tensor: &Tensor) {
    let is_flat = tensor.is_contiguous() && tensor.device() == Device::Cpu;
    assert!(is_flat && tensor.kind() == T::KIND, "a contiguous tensor on the CPU");
}

/// Returns whether no number is infinite or no number at all.
pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool, TchError> {
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1)
}

/// Loads libtorch's CUDA part where it lies beside the CPU part, so that one program serves both.
///
/// Where it is missing or fails to load, the program works on the CPU.
pub(crate) fn load_cuda() {
    let Some(name) = libtorch_folder().map(|folder| folder.join("libtorch_cuda.so")) else {
        return;
    };
    // The wheel always has the file; the driver is what tells a GPU machine.
    if !name.exists() || !Path::new("/proc/driver/nvidia/version").exists() {
        return;
    }
    let Ok(name) = std::ffi::CString::new(name.into_os_string().into_encoded_bytes()) else {
        return;
    };
    open_library(&name);
}

#[expect(unsafe_code, reason = "loading a library has no safe form; the name is a C string")]
fn open_library(name: &std::ffi::CStr) {
    // SAFETY: `name` is NUL-terminated; the library is libtorch's own and its constructors only register kernels.
    unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
}

/// Returns where the libtorch in this process was loaded from.
fn libtorch_folder() -> Option<std::path::PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = Path::new(&line[line.find('/')?..]);
    path.parent().map(Path::to_path_buf)
}
