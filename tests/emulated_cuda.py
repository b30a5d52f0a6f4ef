"""CUDA kernels run on a CPU: each thread of a block is a thread of the process, one block after the other.

So the very source that a GPU gets is held to its formula where there is no GPU. What it does not know is a GPU's memory
and timing: threads of a warp that do not wait for each other are not caught, and neither are addresses that only a GPU
refuses.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np

_TYPES = {mx.float32: "float", mx.bfloat16: "bfloat16", mx.int32: "int"}
_NUMPY = {mx.float32: np.float32, mx.bfloat16: np.uint16, mx.int32: np.int32}

_DEVICE = r"""
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  explicit bfloat16(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    bits = std::isnan(x) ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to the nearest, ties to even
  }
  explicit operator float() const {
    uint32_t u = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
};
struct Place { int x, y, z; };
static thread_local Place threadIdx, blockIdx;
static Place blockDim, gridDim;
static float lanes[1024];
static std::unique_ptr<std::barrier<>> block;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static int me() { return threadIdx.y * blockDim.x + threadIdx.x; }
static void __syncthreads() { block->arrive_and_wait(); }
static float __shfl_xor_sync(unsigned, float x, int step) {
  lanes[me()] = x;
  warps[me() / 32]->arrive_and_wait();
  const float other = lanes[me() ^ step];
  warps[me() / 32]->arrive_and_wait();
  return other;
}
static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
#define __expf(x) std::exp(x)
static float __fdividef(float x, float y) { return x / y; }
using std::min;
#define __device__ static
#define __shared__ static
"""

_RUN = r"""
extern "C" void run(void** arrays, int** shapes, long long** strides, const int* grid, const int* threads) {
  blockDim = {threads[0], threads[1], 1};
  gridDim = {grid[0], grid[1], 1};
  const int count = threads[0] * threads[1];
  auto walk = [&](int thread, bool together) {
    threadIdx = {thread % threads[0], thread / threads[0], 0};
    for (int y = 0; y < grid[1]; y++) {
      for (int x = 0; x < grid[0]; x++) {
        blockIdx = {x, y, 0};
        body(ARGUMENTS);
        if (together) block->arrive_and_wait();
      }
    }
  };
  if (!TOGETHER) {
    for (int thread = 0; thread < count; thread++) walk(thread, false);
    return;
  }
  block = std::make_unique<std::barrier<>>(count);
  warps.clear();
  for (int warp = 0; warp * 32 < count; warp++) warps.push_back(std::make_unique<std::barrier<>>(32));
  std::vector<std::thread> all;
  for (int thread = 0; thread < count; thread++) all.emplace_back(walk, thread, true);
  for (auto& each : all) each.join();
}
"""


class Emulator:
    """Stands in for ``mx.fast``: its ``cuda_kernel`` runs here; everything else is MLX's."""

    def __init__(self, folder: Path):
        self.folder, self.ran = folder, []

    def __getattr__(self, name):
        return getattr(mx.fast, name)

    def cuda_kernel(self, name, input_names, output_names, source, header, ensure_row_contiguous):
        self.ran.append(name)
        return functools.partial(self._run, input_names, output_names, source, header, ensure_row_contiguous)

    def _run(self, names, output_names, source, header, is_contiguous, inputs, template, grid, threadgroup, **outputs):
        blocks = [size // threads for size, threads in zip(grid, threadgroup, strict=True)]
        dtypes = [array.dtype for array in inputs] + outputs["output_dtypes"]
        program = _program([*names, *output_names], len(inputs), dtypes, source, header, template)
        function = _compiled(program, self.folder)
        arrays = [_to_numpy(array, is_contiguous) for array in inputs]
        shapes = [(ctypes.c_int * max(array.ndim, 1))(*array.shape) for array in arrays]
        strides = [
            (ctypes.c_longlong * max(array.ndim, 1))(*(step // array.itemsize for step in array.strides))
            for array in arrays
        ]
        results = [_unwritten(*output) for output in zip(outputs["output_shapes"], dtypes[len(inputs) :], strict=True)]
        function(
            _addresses([array.ctypes.data for array in (*arrays, *results)]),
            _addresses([ctypes.addressof(shape) for shape in shapes]),
            _addresses([ctypes.addressof(stride) for stride in strides]),
            (ctypes.c_int * 2)(*blocks[:2]),
            (ctypes.c_int * 2)(*threadgroup[:2]),
        )
        return [_to_mlx(result, dtype) for result, dtype in zip(results, dtypes[len(inputs) :], strict=True)]


def _program(names, n_inputs, dtypes, source, header, template):
    parameters, arguments = [], []
    for index, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        const = "const " * (index < n_inputs)
        parameters.append(f"{const}{_TYPES[dtype]}* {name}")
        arguments.append(f"static_cast<{_TYPES[dtype]}*>(arrays[{index}])")
        if index < n_inputs:
            parameters += [f"const int* {name}_shape", f"const long long* {name}_strides"]
            arguments += [f"shapes[{index}]", f"strides[{index}]"]
    constants = [
        f"using {name} = {_TYPES[value]};" if isinstance(value, mx.Dtype) else f"constexpr int {name} = {int(value)};"
        for name, value in template
    ]
    body = f"static void body({', '.join(parameters)}) {{ {' '.join(constants)}\n{source}\n}}\n"
    run = _RUN.replace("ARGUMENTS", ", ".join(arguments))
    return _DEVICE + header + body + run.replace("TOGETHER", "true" if "__shared__" in source else "false")


def _compiled(program, folder):
    library = folder / f"{hashlib.sha256(program.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        command = [shutil.which("g++"), "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-pthread", "-x", "c++", "-", "-o", library]
        # As Python knows the environment: for the C library lmexp puts a compiler of its own in front.
        subprocess.run(command, input=program, text=True, check=True, env=dict(os.environ))
    return ctypes.CDLL(str(library)).run


def _addresses(values):
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
