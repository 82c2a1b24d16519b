"""The same pictures with the same captions in each of the formats that data come in; for tests and benchmarks.

Each function writes `pictures`, [(name, bytes of its file, caption)], below a folder and returns the options of the
source of that name.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

Pictures = list[tuple[str, bytes, str]]


def pictures(number: int, size: tuple[int, int] = (12, 8), suffix: str = "jpg") -> Pictures:
    rng, found = np.random.default_rng(0), []
    for i in range(number):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            file, {"jpg": "JPEG", "png": "PNG"}[suffix]
        )
        found.append((f"{i:06d}.{suffix}", file.getvalue(), f"picture number {i}"))
    return found


def folder(root: Path, written: Pictures) -> dict:
    root.mkdir(parents=True)
    for name, data, caption in written:
        (root / name).write_bytes(data)
        (root / name).with_suffix(".txt").write_text(caption)
    return {"root": str(root)}


def webdataset(root: Path, written: Pictures, each: int = 5) -> dict:
    root.mkdir(parents=True)
    for number, start in enumerate(range(0, len(written), each)):
        with tarfile.open(root / f"{number:05d}.tar", "w") as tar:
            for name, data, caption in written[start : start + each]:
                said = json.dumps({"caption": caption, "status": "success"})
                for file, inner in ((name, data), (f"{name[:6]}.txt", caption), (f"{name[:6]}.json", said)):
                    inner = inner if isinstance(inner, bytes) else inner.encode()
                    member = tarfile.TarInfo(file)
                    member.size = len(inner)
                    tar.addfile(member, io.BytesIO(inner))
    return {"root": str(root)}


def _table(written: Pictures):
    import pyarrow

    images = [{"bytes": data, "path": name} for name, data, _ in written]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    schema = pyarrow.schema(
        [("image", kind), ("text", pyarrow.string())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pyarrow.table({"image": images, "text": [c for *_, c in written]}, schema)


def parquet(root: Path, written: Pictures, each: int = 5) -> dict:
    from pyarrow import parquet as files

    (root / "data").mkdir(parents=True)
    count = -(-len(written) // each)
    for number in range(count):
        table = _table(written[number * each : (number + 1) * each])
        files.write_table(
            table, root / "data" / f"train-{number:05d}-of-{count:05d}.parquet", row_group_size=2
        )
    return {"root": str(root)}


def arrow(root: Path, written: Pictures, each: int = 5) -> dict:
    import pyarrow

    root.mkdir(parents=True)
    count, files = -(-len(written) // each), []
    for number in range(count):
        table = _table(written[number * each : (number + 1) * each])
        name = f"data-{number:05d}-of-{count:05d}.arrow"
        with (
            pyarrow.OSFile(str(root / name), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table, max_chunksize=3)
        files.append({"filename": name})
    (root / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    return {"root": str(root)}


def array_record(root: Path, written: Pictures) -> dict:
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    root.mkdir(parents=True)
    writer = ArrayRecordWriter(str(root / "pictures.array_record"), "group_size:1")
    for _, data, caption in written:
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(data)
        example.features.feature["caption"].bytes_list.value.append(caption.encode())
        writer.write(example.SerializeToString())
    writer.close()
    return {"root": str(root)}


FORMATS = {f.__name__: f for f in (folder, webdataset, parquet, arrow, array_record)}
