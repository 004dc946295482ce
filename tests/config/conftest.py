import pytest


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write both files (and what they may name) and stand in their folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name in ("pictures", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"")
    (tmp_path / "model.safetensors").write_bytes(b"")

    def write(config, data='[{"id": "pics", "instance_data_dir": "pictures"}]'):
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
        (tmp_path / "multidatabackend.json").write_text(data, encoding="utf-8")
        return tmp_path / "config.json"

    return write
