"""CUDA kernels run on a CPU, one block after the other; the threads of a block take turns.

So the very source that a GPU gets is held to its formula where there is no GPU. A kernel runs twice, its threads in
one order and in the other: where it forgets to wait, the results differ. Threads that do not all wait for the same end
the process, and so does an address that is not a multiple of what is read there at once. What this does not know is a
GPU's memory and timing, and what its compiler refuses.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess

import mlx.core as mx
import numpy as np
from as_on_a_gpu import MlxOnAGpu

_TYPES = {mx.float32: "float", mx.bfloat16: "bfloat16", mx.int32: "int", mx.uint32: "unsigned"}
_NUMPY = {mx.float32: np.float32, mx.bfloat16: np.uint16, mx.int32: np.int32, mx.uint32: np.uint32}

# The threads, compiled once: what a kernel calls, and what calls the kernel.
_DEVICE = r"""
#include <cstdlib>
#include <memory>
#include <ucontext.h>
#include <vector>

struct Place { int x, y, z; };
Place threadIdx, blockIdx, blockDim, gridDim;

namespace {
constexpr int kStack = 1 << 16;
struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  char waits_for;  // 's' for all threads, 'x' for a value from another, 0 when it is done
};
std::vector<Thread> threads;
ucontext_t scheduler;
int me;
bool is_backwards;
float lanes[1024];
void (*body)(void**, int**, long long**);
void** arrays;
int** shapes;
long long** steps;

void run_body() {
  body(arrays, shapes, steps);
  threads[me].waits_for = 0;
}

void wait(char what) {
  threads[me].waits_for = what;
  swapcontext(&threads[me].context, &scheduler);
}

// Where nobody waits, one after the other.
void run_apart(int count) {
  for (me = 0; me < count; me++) {
    threadIdx = {me % blockDim.x, me / blockDim.x, 0};
    body(arrays, shapes, steps);
  }
}

// The threads of a warp go on together until they wait for the other warps.
void run_warp(int first) {
  do {
    for (int turn = 0; turn < 32; turn++) {
      me = is_backwards ? first + 31 - turn : first + turn;
      threadIdx = {me % blockDim.x, me / blockDim.x, 0};
      swapcontext(&scheduler, &threads[me].context);
    }
    for (int lane = 1; lane < 32; lane++)
      if (threads[first + lane].waits_for != threads[first].waits_for) abort();
  } while (threads[first].waits_for == 'x');
}

void run_block() {
  for (auto& thread : threads) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, run_body, 0);
  }
  const int count = threads.size();
  do {
    for (int turn = 0; turn < count; turn += 32) run_warp(is_backwards ? count - 32 - turn : turn);
    for (auto& thread : threads)
      if (thread.waits_for != threads[0].waits_for) abort();
  } while (threads[0].waits_for);
}
}  // namespace

void __syncthreads() { wait('s'); }

float __shfl_xor_sync(unsigned, float x, int step) {
  lanes[me] = x;
  wait('x');
  const float other = lanes[me ^ step];
  wait('x');
  return other;
}

extern "C" void launch(void (*the_body)(void**, int**, long long**), void** the_arrays, int** the_shapes,
                       long long** the_steps, const int* grid, const int* block, int waits, int backwards) {
  is_backwards = backwards;
  body = the_body, arrays = the_arrays, shapes = the_shapes, steps = the_steps;
  blockDim = {block[0], block[1], 1};
  gridDim = {grid[0], grid[1], 1};
  threads = std::vector<Thread>(waits ? block[0] * block[1] : 0);
  for (int at = 0; at < grid[0] * grid[1]; at++) {
    blockIdx = {at % grid[0], at / grid[0], 0};
    waits ? run_block() : run_apart(block[0] * block[1]);
  }
}
"""

_LANGUAGE = r"""
struct Place { int x, y, z; };
extern Place threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
float __shfl_xor_sync(unsigned, float, int);
static int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
static float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
static float __expf(float x) { return __builtin_expf(x); }
static float __fdividef(float x, float y) { return x / y; }
static int min(int a, int b) { return a < b ? a : b; }
struct bfloat16 {
  unsigned short bits;
  bfloat16() = default;
  explicit bfloat16(float x) {
    const unsigned u = __float_as_int(x);
    bits = x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to the nearest, ties to even
  }
  explicit operator float() const { return __int_as_float(bits << 16); }
};
#define __device__ static
#define __shared__ static
"""


class MlxWithCuda(MlxOnAGpu):
    """MLX as a module sees it where there is a CUDA device: its own kernels run here.

    Args:
        folder: for compiled kernels; processes can share it.
    """

    def __init__(self, folder):
        self.fast = _Fast(folder)


class _Fast:
    def __init__(self, folder):
        self._folder = folder

    def __getattr__(self, name):
        return getattr(mx.fast, name)

    def cuda_kernel(self, name, input_names, output_names, source, header, ensure_row_contiguous):
        return functools.partial(self._run, input_names, output_names, source, header, ensure_row_contiguous)

    def _run(self, inputs_named, outputs_named, source, header, is_contiguous, inputs, template, **launch):
        dtypes = [array.dtype for array in inputs] + launch["output_dtypes"]
        program = _program([*inputs_named, *outputs_named], len(inputs), dtypes, source, header, template)
        arrays = [_to_numpy(array, is_contiguous) for array in inputs]
        shapes = [(ctypes.c_int * max(array.ndim, 1))(*array.shape) for array in arrays]
        steps = [
            (ctypes.c_longlong * max(array.ndim, 1))(*(step // array.itemsize for step in array.strides))
            for array in arrays
        ]
        blocks = [size // threads for size, threads in zip(launch["grid"], launch["threadgroup"], strict=True)]
        device = ctypes.CDLL(str(_compiled(_DEVICE, self._folder)), mode=ctypes.RTLD_GLOBAL)
        body = ctypes.CDLL(str(_compiled(program, self._folder))).body
        runs, waits = [], "__shared__" in source
        for is_backwards in (False, True) if waits else (False,):
            outputs = [_unwritten(*each) for each in zip(launch["output_shapes"], dtypes[len(inputs) :], strict=True)]
            device.launch(
                body,
                _addresses(array.ctypes.data for array in (*arrays, *outputs)),
                _addresses(ctypes.addressof(shape) for shape in shapes),
                _addresses(ctypes.addressof(step) for step in steps),
                (ctypes.c_int * 2)(*blocks[:2]),
                (ctypes.c_int * 2)(*launch["threadgroup"][:2]),
                waits,
                is_backwards,
            )
            runs.append(outputs)
        for one, other in zip(runs[0], runs[-1], strict=True):
            assert one.tobytes() == other.tobytes(), "the order of its threads changes what a kernel computes"
        return [_to_mlx(output, dtype) for output, dtype in zip(outputs, dtypes[len(inputs) :], strict=True)]


def _program(names, n_inputs, dtypes, source, header, template):
    arrays = [
        f"{'const ' * (index < n_inputs)}{_TYPES[dtype]}* {name} = static_cast<{_TYPES[dtype]}*>(all_arrays[{index}]);"
        for index, (name, dtype) in enumerate(zip(names, dtypes, strict=True))
    ]
    facts = [
        f"const int* {name}_shape = all_shapes[{index}]; const long long* {name}_strides = all_steps[{index}];"
        for index, name in enumerate(names[:n_inputs])
    ]
    constants = [
        f"using {name} = {_TYPES[value]};" if isinstance(value, mx.Dtype) else f"constexpr int {name} = {int(value)};"
        for name, value in template
    ]
    lines = "\n".join([*constants, *arrays, *facts, source])
    name = 'extern "C" void body(void** all_arrays, int** all_shapes, long long** all_steps)'
    return f"{_LANGUAGE}{header}{name} {{\n{lines}\n}}\n"


def _compiled(program, folder):
    """Return the library of a program; others share the folder, so it is built under a name of this process's own."""
    library = folder / f"{hashlib.sha256(program.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        building = library.with_suffix(f".{os.getpid()}")
        # The sanitizer ends a process that reads several numbers at once where they do not begin.
        checks = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
        command = [shutil.which("g++"), "-std=c++20", "-O0", "-w", *checks, "-shared", "-fPIC", "-x", "c++"]
        # As Python knows the environment: for the C library lmexp puts a compiler of its own in front.
        subprocess.run([*command, "-", "-o", building], input=program, text=True, check=True, env=dict(os.environ))
        building.replace(library)
    return library


def _addresses(values):
    values = list(values)
    return (ctypes.c_void_p * len(values))(*values)


def _to_numpy(array, is_contiguous):
    """Return the array as the kernel sees it: one that asks for strides gets its middle axes the other way round."""
    numbers = np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
    if is_contiguous or numbers.ndim != 4:
        return np.ascontiguousarray(numbers)
    return np.ascontiguousarray(numbers.swapaxes(1, 2)).swapaxes(1, 2)


def _unwritten(shape, dtype):
    """Return an array of what is not a number: the tests see what a kernel leaves out."""
    return np.full(shape, 0x7FC0 if dtype == mx.bfloat16 else np.nan, dtype=_NUMPY[dtype])


def _to_mlx(numbers, dtype):
    return mx.array(numbers).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(numbers)
