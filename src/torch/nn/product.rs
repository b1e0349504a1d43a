//! Matrix products of f32 on the CPU.
//!
//! On processors that are not Intel's, libtorch's MKL takes code two to three times slower than the crate `gemm`; there that does
//! the products that need no graph. Everywhere else, and for other kinds and devices, libtorch does them.

use std::sync::OnceLock;

use gemm::Parallelism;
use tch::{Device, Kind, TchError, Tensor};
use tlm::base::World;

/// Returns whether products of f32 on this machine's CPU are done here.
pub(crate) fn is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut vendors = cpus.lines().filter(|line| line.starts_with("vendor_id"));
        let is_foreign = vendors.next().is_some_and(|vendor| !vendor.contains("GenuineIntel"));
        // Who wants libtorch's code for any CPU wants the same bits everywhere.
        let is_plain = World::of_process()
            .is_ok_and(|world| world.var("ATEN_CPU_CAPABILITY") == Some("default"));
        is_foreign && !is_plain
    })
}

fn suits(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && !tensor.requires_grad()
}

/// Returns `x weight^T + bias`: `[.., columns]` times `[rows, columns]` gives `[.., rows]`.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    // A view of a tensor needs a graph where the tensor does and one is made.
    let transposed = weight.f_tr()?;
    if !(is_ours() && suits(x) && suits(&transposed)) {
        return x.f_linear(weight, bias);
    }
    let mut shape = x.size();
    shape.pop();
    shape.push(weight.size()[0]);
    let y = product(&rows(x)?, &transposed)?.f_view(&shape[..])?;
    match bias {
        Some(bias) => y.f_add(bias),
        None => Ok(y),
    }
}

/// Returns a tensor as a matrix of its last dimension.
pub(crate) fn rows(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_reshape([-1, x.size().last().copied().unwrap_or(1)])
}

/// Returns the product of two matrices.
pub(crate) fn product(left: &Tensor, right: &Tensor) -> Result<Tensor, TchError> {
    if !(is_ours() && suits(left) && suits(right)) {
        return left.f_mm(right);
    }
    let out = Tensor::f_empty([left.size()[0], right.size()[1]], (Kind::Float, Device::Cpu))?;
    multiply(&out, false, left, right);
    Ok(out)
}

/// Adds the product of two matrices to a third.
pub(crate) fn add_product(sum: &mut Tensor, left: &Tensor, right: &Tensor) -> Result<(), TchError> {
    if is_ours() && [&*sum, left, right].into_iter().all(suits) {
        multiply(sum, true, left, right);
    } else if left.kind() == sum.kind() {
        let _ = sum.f_addmm_(left, right)?;
    } else {
        let _ = sum.f_add_(&left.f_mm(right)?)?;
    }
    Ok(())
}

/// Makes `out` the product of two matrices of f32, or adds that to it.
///
/// # Panics
/// When the shapes don't fit.
fn multiply(out: &Tensor, add: bool, left: &Tensor, right: &Tensor) {
    let matrix = |tensor: &Tensor| {
        let (shape, strides) = (tensor.size(), tensor.stride());
        assert!(shape.len() == 2 && suits(tensor), "a matrix of f32 on the CPU");
        let size = |at: usize| usize::try_from(shape[at]).expect("a length");
        (
            tensor.data_ptr().cast::<f32>(),
            size(0),
            size(1),
            strides[0] as isize,
            strides[1] as isize,
        )
    };
    let (to, rows, columns, to_row, to_column) = matrix(out);
    let (a, a_rows, inner, a_row, a_column) = matrix(left);
    let (b, b_rows, b_columns, b_row, b_column) = matrix(right);
    assert!((a_rows, inner, b_columns) == (rows, b_rows, columns), "shapes that fit");
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    #[expect(unsafe_code, reason = "the crate takes matrices by pointer and strides")]
    // SAFETY: pointers, shapes and strides are those of three living tensors of f32; `out` is none of the others.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            to,
            to_column,
            to_row,
            add,
            a,
            a_column,
            a_row,
            b,
            b_column,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) },
        );
    }
}
