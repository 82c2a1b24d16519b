"""Where commands keep what they compiled, and that they go on where they cannot."""

import pwd

import jax
import pytest

from ldm_jax import cli
from ldm_jax.convert import cached_weights


@pytest.fixture
def plain(monkeypatch):
    """No folder is named by the environment, and what is set of jax's is set back."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "LDM_JAX_CACHE", "TORCH_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    return set_to


def test_a_user_without_home_and_passwd_entry_goes_on_without_a_cache(plain, monkeypatch):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    cli.use_compilation_cache()
    assert plain == {} and cli.executables() is None
    with pytest.raises(ValueError, match="put weights.pth into a folder that LDM_JAX_CACHE names"):
        cached_weights.find_cached("FID", ["weights.pth"])
    monkeypatch.setenv("TORCH_HOME", "/torch")
    assert [str(folder) for folder in cached_weights.folders()] == ["/torch/hub/checkpoints"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/cache")
    assert str(cli.executables()) == "/cache/executables"


def test_the_default_cache_is_made_private_and_another_s_is_passed_over(plain, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "ldm_jax"
    cli.use_compilation_cache()
    assert (
        plain.pop("jax_compilation_cache_dir") == str(folder / "jax")
        and cli.executables() == folder / "executables"
    )
    assert (folder / "jax").stat().st_mode & 0o777 == 0o700 and not caplog.text
    (folder / "jax").chmod(0o777)
    cli.use_compilation_cache()
    assert "jax_compilation_cache_dir" not in plain
    assert f"compiled programs are not kept: others may write to {folder / 'jax'}" in caplog.text
    monkeypatch.setenv("HOME", "/dev/null")  # nothing can be made there
    cli.use_compilation_cache()
    assert "jax_compilation_cache_dir" not in plain and "Not a directory" in caplog.text
