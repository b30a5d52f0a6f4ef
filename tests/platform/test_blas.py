"""The BLAS under MLX: what is loaded is what is used, and what is used is what the label says."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmexp.errors import UserError
from lmexp.platform import advice, blas, shim, start

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="builds a small library with cc")
pytestmark = pytest.mark.skipif(start.mlx_backend() != "cpu", reason="only MLX's CPU wheel lets its BLAS be replaced")

# A correct, slow BLAS that counts how often it multiplied matrices of the width that the tests use.
COUNTING = r"""
int calls = 0;
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    calls += k == 7;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int l = 0; l < k; l++)
                sum += (ta == 111 ? a[i * lda + l] : a[l * lda + i]) * (tb == 111 ? b[l * ldb + j] : b[j * ldb + l]);
            c[i * ldc + j] = alpha * sum + WRONG;
        }
}
void cblas_dgemm(void) {}
void cblas_cgemm(void) {}
"""
# Multiplies (5, 7) by (7, 3) through MLX, and prints the label, the product's first entry and the library's count.
COUNT = """
import ctypes
from lmexp.platform import prepare
label = prepare()
import mlx.core as mx
product = (mx.full((5, 7), 2.0) @ mx.full((7, 3), 3.0)).tolist()
print(label, product[4][2], ctypes.c_int.in_dll(ctypes.CDLL({path!r}), "calls").value)
"""


# What OpenBLAS says of itself.
OPENBLAS = r"""
const char *openblas_get_config(void) { return "OpenBLAS 1.2.3 " BUILD " Haswell"; }
"""


def build(folder: Path, name: str, wrong: int = 0, more: str = "") -> Path:
    path = folder / name
    command = ["cc", "-shared", "-fPIC", f"-DWRONG={wrong}", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=COUNTING + more, text=True, check=True)
    return path


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("counting"), "libcounting.so")


@needs_compiler
def test_mlx_multiplies_with_the_library_that_was_named(run_python, counting):
    done = run_python(COUNT.format(path=str(counting)), LMEXP_BLAS=str(counting))
    assert done.stdout.split() == ["libcounting.so", "(LMEXP_BLAS)", "42.0", "1"]
    assert done.stderr == ""


@needs_compiler
def test_off_leaves_mlx_its_own(run_python, counting):
    done = run_python(COUNT.format(path=str(counting)), LMEXP_BLAS="off")
    assert done.stdout.split() == ["reference", "42.0", "0"]


@needs_compiler
def test_a_library_preloaded_by_the_user_is_used_and_named_even_when_ours_is_off(run_python, counting):
    done = run_python(COUNT.format(path=str(counting)), LMEXP_BLAS="off", LD_PRELOAD=str(counting))
    assert done.stdout.split() == ["libcounting.so", "(preloaded)", "42.0", "1"]


WOKEN = """
import os
from lmexp.platform import blas, prepare
seen, multiplies = [], blas._multiplies
def told(): return os.environ.get("MKL_NUM_THREADS"), os.environ.get("MKL_INTERFACE_LAYER")
blas._multiplies = lambda library: seen.append(told()) or multiplies(library)
prepare(3)
print(seen, told())
"""


@needs_compiler
def test_a_preloaded_library_multiplies_while_it_can_read_how_many_threads_to_use(run_python, counting):
    told = run_python(WOKEN, LD_PRELOAD=str(counting), MKL_INTERFACE_LAYER="ILP64").stdout
    assert told.strip() == "[('3', 'LP64')] (None, 'ILP64')"


@needs_compiler
def test_a_preloaded_library_that_multiplies_wrongly_is_refused(run_python, tmp_path):
    wrong = build(tmp_path, "libwrong.so", wrong=1)
    done = run_python("from lmexp.platform import prepare; prepare()", check=False, LD_PRELOAD=str(wrong))
    assert "UserError: The preloaded libwrong.so" in done.stderr


@needs_compiler
def test_without_a_compiler_a_named_library_is_used_whole(run_python, counting, no_tools, tmp_path):
    done = run_python(COUNT.format(path=str(counting)), LMEXP_BLAS=str(counting), PATH=no_tools)
    assert done.stdout.split() == ["libcounting.so", "(LMEXP_BLAS)", "42.0", "1"]
    assert list((tmp_path / "cache" / "blas").iterdir()) == []


AGREEMENT = """
from lmexp.platform import blas, prepare
del blas._WHEELS["mkl"]
print(prepare())
import ctypes, numpy as np, mlx.core as mx
everything = ctypes.CDLL(None)
assert blas._file_of(everything.cblas_sgemm).startswith({cache!r}), "the global name is the shim's"
assert not hasattr(everything, "scipy_cblas_sgemm"), "nothing else of the library is lent out"
assert prepare() == prepare()

draw = np.random.default_rng(0)
def complex_normal(*shape):
    return (draw.standard_normal(shape) + 1j * draw.standard_normal(shape)).astype(np.complex64)
def normal(*shape):
    return draw.standard_normal(shape).astype(np.float32)

def agree(a, b, multiply=lambda a, b: a @ b, prepare=lambda x: x):
    ours = np.array(multiply(prepare(mx.array(a)), mx.array(b)))
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    a, b = (np.asarray(x).astype(wide) for x in (prepare(a), b))
    # A sum of k products in any order errs by at most about k roundings of the sum of their magnitudes; a complex
    # product is two real ones in each of its two parts: 4 k covers both.
    bound = 4 * a.shape[-1] * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b))
    assert ours.shape == (a @ b).shape and np.all(np.abs(ours - a @ b) <= bound), (a.shape, b.shape)

for m, k, n in ((1, 1, 1), (3, 5, 7), (33, 65, 17), (128, 96, 160), (1, 300, 2), (257, 129, 1)):
    agree(normal(m, k), normal(k, n))
    agree(complex_normal(m, k), complex_normal(k, n))
agree(normal(65, 33), normal(65, 17), prepare=lambda x: x.T)                 # transposed on the left
agree(normal(33, 65), np.ascontiguousarray(normal(17, 65)).T)                # transposed on the right
agree(normal(66, 130), normal(65, 17), prepare=lambda x: x[::2, ::2])        # strided
agree(normal(4, 3, 33, 65), normal(4, 3, 65, 17))                            # batched
agree(normal(4, 1, 33, 65), normal(3, 65, 17))                               # broadcast
agree(complex_normal(2, 65, 33), complex_normal(2, 65, 17), prepare=lambda x: x.swapaxes(-1, -2))
c = normal(33, 17)
a, b = normal(33, 65), normal(65, 17)
ours = np.array(mx.addmm(mx.array(c), mx.array(a), mx.array(b), alpha=0.5, beta=2.0))
assert np.allclose(ours, 2 * c + 0.5 * (a @ b), atol=1e-4)                   # entries near 8, 65 roundings of 1e-7 each
"""


WHEEL_ALONE = """
from lmexp.platform import blas, prepare
del blas._WHEELS["mkl"]
print(prepare())
import mlx.core as mx
assert (mx.ones((5, 7)) @ mx.ones((7, 3))).sum().item() == 105
"""


@needs_compiler
def test_products_through_the_openblas_wheel_are_right_and_nothing_else_is_lent_out(run_python, tmp_path):
    done = run_python(AGREEMENT.format(cache=str(tmp_path / "cache")))
    name, version, origin = done.stdout.split()
    assert (name, origin) == ("openblas", "(scipy-openblas32)")
    assert version.split(".")[:3] == importlib.metadata.version("scipy-openblas32").split(".")[:3]
    assert done.stderr == ""


@needs_compiler
def test_the_openblas_wheel_can_be_named_though_its_names_have_a_prefix(run_python):
    [path] = blas._files_of("scipy-openblas32", "libscipy_openblas.so")
    done = run_python(WHEEL_ALONE, LMEXP_BLAS=str(path))
    assert done.stdout.endswith(" (LMEXP_BLAS)\n")


@needs_compiler
@pytest.mark.parametrize("wrong", [0, 1], ids=["right", "wrong"])
def test_mkls_wheel_is_taken_before_openblas_if_it_multiplies(run_python, tmp_path, wrong):
    wheel, library = tmp_path / "mkl-1.0.dist-info", build(tmp_path, "libmkl_rt.so.3", wrong)
    wheel.mkdir()
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: mkl\nVersion: 1.0\n")
    (wheel / "RECORD").write_text("libmkl_rt.so.3,,\nmkl-1.0.dist-info/METADATA,,\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + COUNT.format(path=str(library))
    *name, origin, first, calls = run_python(code).stdout.split()
    expected = ("openblas", "(scipy-openblas32)", "42.0", "0") if wrong else ("libmkl_rt.so.3", "(mkl)", "42.0", "1")
    assert (name[0], origin, first, calls) == expected


def test_what_mends_the_reference_blas_depends_on_what_is_missing(monkeypatch):
    monkeypatch.setattr(blas.shim, "find_compiler", lambda: None)
    assert blas.mend_reference() == advice.install_compiler()
    monkeypatch.setattr(blas.shim, "find_compiler", lambda: "/usr/bin/cc")
    assert "LMEXP_CACHE" in blas.mend_reference()
    monkeypatch.setattr(blas, "_WHEELS", {})
    assert "scipy-openblas32" in blas.mend_reference()
    monkeypatch.setenv("LMEXP_BLAS", "off")
    assert blas.mend_reference() == "unset LMEXP_BLAS"


def test_without_a_compiler_one_sentence_says_what_to_type(run_python, no_tools):
    done = run_python(WHEEL_ALONE, PATH=no_tools)
    assert done.stdout.strip() == "reference"
    assert done.stderr.count("\n") == 1
    assert "no C compiler was found" in done.stderr
    assert advice.install_compiler() in done.stderr


@needs_compiler
def test_a_shim_once_built_needs_no_compiler(run_python, no_tools):
    first = run_python(WHEEL_ALONE)
    assert run_python(WHEEL_ALONE, PATH=no_tools).stdout == first.stdout
    assert first.stdout.startswith("openblas ")


def test_with_no_blas_at_all_one_sentence_says_what_to_type(run_python):
    done = run_python("from lmexp.platform import blas, prepare; blas._WHEELS.clear(); print(prepare())")
    assert done.stdout.strip() == "reference"
    assert done.stderr.count("\n") == 1
    assert "install --reinstall scipy-openblas32" in done.stderr


@pytest.mark.parametrize("choice", ["/nowhere/libopenblas.so", "libm.so.6"])
def test_a_named_library_that_cannot_serve_is_refused(run_python, choice):
    done = run_python("from lmexp.platform import prepare; prepare()", check=False, LMEXP_BLAS=choice)
    assert f"UserError: LMEXP_BLAS={choice} " in done.stderr


@needs_compiler
def test_a_library_that_multiplies_wrongly_is_refused(run_python, tmp_path):
    wrong = build(tmp_path, "libwrong.so", wrong=1)
    done = run_python("from lmexp.platform import prepare; prepare()", check=False, LMEXP_BLAS=str(wrong))
    assert "UserError" in done.stderr


@needs_compiler
def test_a_library_s_plain_names_come_first_since_mlx_asks_for_those(tmp_path):
    both = build(tmp_path, "libboth.so", more="void scipy_cblas_sgemm(void) {}")
    assert blas._named(str(both)).prefix == ""


@needs_compiler
def test_an_openblas_says_its_version_and_one_with_wide_integers_is_refused(tmp_path):
    narrow = build(tmp_path, "libnarrow.so", more=OPENBLAS.replace("BUILD", '"NO_AFFINITY"'))
    wide = build(tmp_path, "libwide.so", more=OPENBLAS.replace("BUILD", '"USE64BITINT"'))
    assert blas._named(str(narrow)).label == "openblas 1.2.3 (LMEXP_BLAS)"
    with pytest.raises(UserError, match="has no"):
        blas._named(str(wide))


def test_too_late_is_an_error_unless_nothing_would_be_loaded(run_python):
    code = "import mlx.core; from lmexp.platform import prepare; print(prepare())"
    assert "RuntimeError: prepare() must be called before" in run_python(code, check=False).stderr
    assert run_python(code, LMEXP_BLAS="off").stdout.strip() == "reference"


def test_the_best_wheel_comes_first_and_one_that_cannot_be_loaded_is_passed_over(monkeypatch):
    def load(path: str) -> str:
        if path == "mkl/a":
            raise OSError
        return path

    monkeypatch.setattr(blas, "_files_of", lambda wheel, name: [Path(wheel, file) for file in ("a", "b")])
    monkeypatch.setattr(blas.ctypes, "CDLL", load)
    monkeypatch.setattr(blas, "_usable", lambda candidate: True)
    found = [(candidate.library, candidate.source) for candidate in blas._candidates()]
    assert found == [("mkl/b", "mkl"), *((f"scipy-openblas32/{file}", "scipy-openblas32") for file in ("a", "b"))]


# ---- the shim is whole or absent


def fake_compiler(folder: Path, script: str) -> str:
    compiler = folder / "cc"
    compiler.write_text(f"#!/bin/sh\nfor output; do :; done\n{script}\n")  # the last argument is the output
    compiler.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    "script",
    ["printf half > $output; echo no space >&2; exit 1", "printf half > $output; kill -9 $PPID"],
    ids=["fails", "kills us"],
)
def test_a_half_built_shim_is_never_cached(run_python, no_tools, tmp_path, script):
    done = run_python(WHEEL_ALONE, check=False, PATH=fake_compiler(Path(no_tools), script))
    assert not list((tmp_path / "cache" / "blas").glob("*.so"))
    if done.returncode == 0:
        assert done.stdout.strip() == "reference"
        assert "cc failed: no space" in done.stderr


@needs_compiler
def test_a_damaged_shim_is_built_again(run_python, monkeypatch):
    shim.shim_path().write_bytes(b"\x7fELF and nothing more")
    assert run_python(WHEEL_ALONE).stdout.startswith("openblas ")


@needs_compiler
def test_processes_that_build_at_once_all_succeed(environment, tmp_path):
    command = [sys.executable, "-c", WHEEL_ALONE]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    labels = {process.communicate()[0] for process in started}
    assert len(labels) == 1
    assert labels.pop().startswith("openblas ")
    assert [file.suffix for file in (tmp_path / "cache" / "blas").iterdir()] == [".so"]


def test_a_cache_that_cannot_be_written_is_one_warning_each_for_blas_and_kernels(run_python):
    # Folders that allow no entry, even to root, as on a read-only disk.
    full = "import os, tempfile\ndef refuse(*_, **__): raise OSError(30, 'Read-only file system')\n"
    code = full + "tempfile.TemporaryDirectory = refuse\n" + WHEEL_ALONE
    code = code.replace("print(prepare())", "compiler._link_all = refuse; print(prepare())")
    done = run_python("from lmexp.platform import compiler\n" + code)
    assert done.stdout.strip() == "reference"
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.count("LMEXP_CACHE") == 2


def test_a_cache_that_cannot_be_is_the_users_to_mend(run_python, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_python(WHEEL_ALONE, check=False, LMEXP_CACHE=str(tmp_path / "file" / "cache"))
    assert "UserError" in done.stderr
    assert "LMEXP_CACHE" in done.stderr


def test_advice_fits_the_distribution(tmp_path, monkeypatch):
    release = tmp_path / "os-release"
    expected = {
        "ID=debian": "apt-get install g++",
        'ID=linuxmint\nID_LIKE="ubuntu debian"': "apt-get install g++",
        'ID="rocky"\nID_LIKE="rhel centos fedora"': "dnf install gcc-c++",
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"': "zypper install gcc-c++",
        "ID=nixos": "package manager",
    }
    for text, tool in expected.items():
        release.write_text(text)
        monkeypatch.setattr(advice, "_RELEASE", release)
        assert tool in advice.install_compiler()
    monkeypatch.setattr(advice, "_RELEASE", tmp_path / "absent")
    assert "package manager" in advice.install_compiler()
