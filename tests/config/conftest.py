import pytest


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write both files (and what they may name) and stand in their folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    (tmp_path / "empty").mkdir()
    for name in ("pictures/one.png", "masks/one.png", "shards/0.tar", "captions.csv", "rows.parquet",
                 "model.safetensors", "script.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def write(config, data='[{"id": "pics", "instance_data_dir": "pictures"}]'):
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
        (tmp_path / "multidatabackend.json").write_text(data, encoding="utf-8")
        return tmp_path / "config.json"

    return write
