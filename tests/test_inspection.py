"""Bad stores and what is said of each; stores that pass; and that the dangers are real."""

import contextlib
import json
import os
import pickle
import shutil
import warnings
import zipfile

import google_crc32c
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, VLenUTF8Codec
from zarr.errors import ZarrUserWarning

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection import inspect

GROUP = "full/posterior_predictive"
LOSS, DRAW, QUERY = f"{GROUP}/loss", f"{GROUP}/draw", f"{GROUP}/query"
CHUNK, TEXT = f"{LOSS}/c/0/1/0", f"{QUERY}/c/0"
CRC = {"name": "crc32c"}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "original"
    root = zarr.create_group(path, attributes={"dtda_prob": json.dumps({"format": 1})})
    group = root.create_group(GROUP, attributes={"dtda_prob": '{"transform": "training"}'})
    stats = root.create_group("full/sample_stats")
    add(group, "loss", np.arange(1.0, 13, dtype="f4").reshape(1, 4, 3), ("chain", "draw", "query"))
    add(group, "draw", np.arange(1, 5), ("draw",))
    add(group, "query", np.array(["a", "bé", "c"], dtype=object), ("query",), "string")
    add(stats, "diverging", np.array([[True, False, True, True]]), ("chain", "draw"))
    add(stats, "step", np.float64(0.5), ())
    return consolidate(path)


def add(group, name, values, dims, dtype=None):
    serializer = VLenUTF8Codec() if dtype else BytesCodec()
    chunks = (1, 2, 3) if values.ndim == 3 else values.shape
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=dtype or values.dtype,
        serializer=serializer,
        compressors=[Crc32cCodec()],
        dimension_names=dims,
    )
    array[...] = values


def consolidate(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)
    return path


@pytest.fixture
def store(original, tmp_path):
    return shutil.copytree(original, tmp_path / "study.zarr")


def edit(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def listing(document):
    return document["consolidated_metadata"]["metadata"]


def root(path, **fields):
    """Change what the root says of a node, or of itself."""

    def change(document):
        (listing(document)[path] if path else document).update(fields)

    return lambda store: edit(store / "zarr.json", change)


def own(path, **fields):
    return lambda store: edit(store / path / "zarr.json", lambda document: document.update(fields))


def both(path, **fields):
    return lambda store: (root(path, **fields)(store), own(path, **fields)(store))


def without(path, field):
    return lambda store: edit(store / "zarr.json", lambda d: listing(d)[path].pop(field))


def node(name, like=DRAW, **fields):
    """List another node in the root."""

    def change(document):
        listing(document)[name] = listing(document)[like] | fields

    return lambda store: edit(store / "zarr.json", change)


def attributes(path, **values):
    return both(path, attributes=values)


def chunks(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def write(path, data):
    return lambda store: (store / path).write_bytes(data)


def resize(path, size):
    return lambda store: os.truncate(store / path, size)


def rewrite(path, change):
    return lambda store: (store / path).write_bytes(change((store / path).read_bytes()))


def with_checksum(data):
    return data + google_crc32c.value(data).to_bytes(4, "little")


def strings(count, *items):
    encoded = [len(item).to_bytes(4, "little") + item for item in items]
    return with_checksum(count.to_bytes(4, "little") + b"".join(encoded))


def link(path, target):
    def change(store):
        kept = (store / path).rename(store.parent / "outside")
        (store / path).symlink_to(kept if target is None else target)

    return change


def pipe(path):
    return lambda store: ((store / path).unlink(missing_ok=True), os.mkfifo(store / path))


def many_nodes(store):
    def change(document):
        group = listing(document)["full"]
        listing(document).update({f"g{i}": group for i in range(10_001)})

    edit(store / "zarr.json", change)


def nested(depth):
    text = b'{"a": ' + b"[" * depth + b"]" * depth + b"}"
    return lambda store: (store / "full/zarr.json").write_bytes(text)


V2 = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "order": "C", "fill_value": ""}
PICKLED = V2 | {"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}}


def pickled(path):
    def change(store):
        (store / path).mkdir()
        (store / path / ".zarray").write_text(json.dumps(PICKLED))
        (store / path / "0").write_bytes(pickle.dumps(Canary(store.parent / "canary")))

    return change


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


BAD = [
    # other formats, codecs and extensions: all that is looked up in a registry
    ("format 2 inside", pickled(f"{GROUP}/evil"), f"'{GROUP}/evil/.zarray' is of zarr format 2"),
    ("format 2 listed", node(f"{GROUP}/x", zarr_format=2), f"{GROUP}/x' is not of zarr format 3"),
    ("format 2 list", write(".zmetadata", b"{}"), "'.zmetadata' is of zarr format 2"),
    ("node type", root("full", node_type="link"), "full' is a node of type 'link'"),
    ("field", both(LOSS, evil={"must_understand": False}), r"loss' has the unknown fields \['evil'\]"),
    ("field of group", own("full", evil=1), r"'full/zarr.json' has the unknown fields \['evil'\]"),
    ("transformer", both(LOSS, storage_transformers=[{"name": "x"}]), "loss' has storage transformers"),
    ("pickle", both(LOSS, codecs=[LITTLE, {"name": "numcodecs.pickle"}]), "loss' has codecs .*pickle"),
    ("zstd", both(LOSS, codecs=[LITTLE, {"name": "zstd"}]), "loss' has codecs .*compressed.*re-save"),
    ("no checksum", both(LOSS, codecs=[LITTLE]), "loss' has codecs"),
    ("sharding", own(LOSS, codecs=[{"name": "sharding_indexed"}]), "loss/zarr.json' has codecs"),
    ("big endian", both(LOSS, codecs=[{"name": "bytes"}, CRC]), "loss' has codecs"),
    ("codecs no list", both(LOSS, codecs=3), "loss' has codecs 3"),
    ("kind", both(LOSS, data_type="complex64"), "loss' has data type 'complex64', not one of"),
    ("struct", both(LOSS, data_type={"name": "structured"}), "loss' has data type {'name'"),
    ("grid", both(LOSS, chunk_grid={"name": "rectilinear"}), "loss' has chunk grid .*not a regular"),
    ("keys", both(LOSS, chunk_key_encoding={"name": "v2"}), "loss' names its chunks by {'name': 'v2'}"),
    # shapes
    ("negative", both(LOSS, shape=[1, -4, 3]), r"loss' has shape \[1, -4, 3\]"),
    ("fraction", both(LOSS, shape=[1, 4.0, 3]), "loss' has shape .* no list of integers"),
    ("boolean", both(LOSS, shape=[True, 4, 3]), "loss' has shape .* no list of integers"),
    ("not a number", both(LOSS, shape=[1, float("nan"), 3]), "loss' has shape .* no list of integers"),
    ("huge", both(LOSS, shape=[1, 2**63, 3]), "loss' has shape .*within"),
    ("overflow", both(LOSS, shape=[2**62, 2**62, 3]), "loss' declares .* bytes in all"),
    ("chunk of none", both(LOSS, chunk_grid=chunks(1, 0, 3)), r"loss' has chunk shape \[1, 0, 3\]"),
    ("chunk of list", both(LOSS, chunk_grid=chunks(1, [2, 2], 3)), "loss' has chunk shape"),
    (
        "chunk too big",
        both(LOSS, chunk_grid=chunks(1, 2**30, 3)),
        "loss' declares chunks of 12884901888",
    ),
    ("chunk dims", both(LOSS, chunk_grid=chunks(2, 3)), r"loss' has chunks \(2, 3\) for 3 dimensions"),
    (
        "coordinate",
        both(DRAW, shape=[10**12]),
        "draw' is a coordinate.* 8000000000000 bytes, more than",
    ),
    (
        "coordinate in crumbs",
        both(DRAW, shape=[10**6], chunk_grid=chunks(1)),
        "draw' is a coordinate.* 1000000 chunks, more than 100000",
    ),
    ("own coordinate", own(DRAW, shape=[10**12]), f"'{DRAW}' is a coordinate"),
    # fill values, dimensions
    ("fill", both(LOSS, fill_value="0x12"), "loss' has fill value '0x12', no float32"),
    ("fill range", both(DRAW, fill_value=2**70), "draw' has fill value .*, no int64"),
    ("fill of text", both(QUERY, fill_value="x" * 10_000), "query' has fill value .*too long"),
    ("no dims", both(LOSS, dimension_names=None), "loss' has dimension names None, not strings"),
    ("nameless dim", both(LOSS, dimension_names=["chain", None, "query"]), "loss' has dimension names"),
    ("few dims", both(LOSS, dimension_names=["chain", "draw"]), "loss' has .* for 3 dimensions"),
    (
        "dim twice",
        both(LOSS, dimension_names=["query", "draw", "query"]),
        "loss' has a dimension twice",
    ),
    ("missing field", without(LOSS, "fill_value"), r"loss' lacks the fields \['fill_value'\]"),
    ("sizes", both(DRAW, shape=[5]), f"'{LOSS}' has size 4 along 'draw', where '{DRAW}' has 5"),
    (
        "sizes of parents",
        node("full/other", shape=[7]),
        f"'{DRAW}' has size 4 along 'draw', where 'full/other' has 7",
    ),
    (
        "scalar",
        node(f"{GROUP}/chain", "full/sample_stats/step"),
        f"'{GROUP}/chain' is a scalar, but '{LOSS}' has a dimension of its name",
    ),
    # attributes that xarray acts on
    ("dates", attributes(LOSS, units="days since " + "9" * 10_000), "loss' has the attribute units"),
    (
        "calendar",
        attributes(LOSS, units="days since 1900", calendar="x"),
        "loss' has the attribute units",
    ),
    ("missing", attributes(LOSS, missing_value=[0.0] * 9), "loss' has the attribute missing_value"),
    ("scale", attributes(LOSS, scale_factor=[2.0] * 9), "loss' has the attribute scale_factor"),
    ("encoding", attributes(QUERY, _Encoding="rot13"), "query' has the attribute _Encoding='rot13'"),
    ("fill attribute", attributes(LOSS, _FillValue=0), "loss' has the attribute _FillValue=0"),
    ("fill out of range", attributes(DRAW, _FillValue=2**63), "draw' has the attribute _FillValue"),
    ("scaled strings", attributes(QUERY, scale_factor=2), "query' has the attribute scale_factor=2"),
    (
        "coordinates of group",
        own("full", attributes={"coordinates": []}),
        "full/zarr.json' has the attr",
    ),
    (
        "coordinates",
        attributes(LOSS, coordinates=3),
        "loss' has the attribute coordinates, which is no str",
    ),
    ("dtype", attributes(LOSS, dtype="S999999999"), "loss' has the attribute dtype"),
    ("attributes", both(LOSS, attributes=[]), "loss' has attributes that are no JSON object"),
    # the manifest
    ("newer", root("", attributes={"dtda_prob": '{"format": 2}'}), "has format 2, .*newer.*upgrade"),
    ("format", root("", attributes={"dtda_prob": '{"format": "1"}'}), "has format '1', no positive"),
    ("manifest", own("full", attributes={"dtda_prob": {}}), "full/zarr.json.* is a dict, not a string"),
    ("no JSON", own("full", attributes={"dtda_prob": "{"}), "full/zarr.json.* is damaged, no JSON"),
    # names
    ("up", node("../x"), "'zarr.json' lists a node '../x', whose name is no path inside"),
    ("up inside", node(f"{GROUP}/../../../x"), r"lists a node .*/\.\./.*, whose name"),
    ("absolute", node("/etc/x"), "lists a node '/etc/x', whose name"),
    ("empty name", node(f"{GROUP}//x"), "lists a node .*//x', whose name"),
    ("backslash", node(f"{GROUP}/..\\x"), "lists a node .*, whose name"),
    ("unprintable", node(f"{GROUP}/x\0"), r"lists a node .*x\\x00', whose name"),
    ("orphan", node("a/b/c"), "lists a node 'a/b/c' that is in no group"),
    ("node in array", node(f"{LOSS}/x"), f"lists a node '{LOSS}/x' that is in no group"),
    ("too deep", node("/".join("a" * 40)), "lists a node 'a/a/.*, whose name"),
    # JSON
    ("truncated", resize("zarr.json", 500), "'zarr.json' is damaged, no JSON"),
    ("empty", write("full/zarr.json", b""), "'full/zarr.json' is damaged, no JSON"),
    ("not UTF-8", write("full/zarr.json", b'{"\xff": 1}'), "'full/zarr.json' is damaged.*utf-8"),
    (
        "UTF-16",
        rewrite("full/zarr.json", lambda d: d.decode().encode("utf-16")),
        "'full/zarr.json' is dam",
    ),
    ("list", write("full/zarr.json", b"[]"), "'full/zarr.json' holds a list, not a JSON object"),
    ("deep", nested(1000), "'full/zarr.json' is nested more than 32 deep"),
    ("very deep", nested(100_000), "'full/zarr.json' is nested more than 32 deep"),
    ("containers", nested(1_100_000), "'full/zarr.json' holds more than 1000000 lists and objects"),
    (
        "key twice",
        rewrite("zarr.json", lambda d: d.replace(b'"node_type"', b'"node_type": "array", "node_type"')),
        "'zarr.json' is damaged, .* 'node_type' is given twice",
    ),
    (
        "digits",
        write("full/zarr.json", b'{"a": %s}' % (b"9" * 5000)),
        "'full/zarr.json' is damaged.*4300",
    ),
    ("large", resize("zarr.json", 2**26 + 1), "'zarr.json' has more than 67108864 bytes"),
    ("large own", resize("full/zarr.json", 2**24 + 1), "'full/zarr.json' has more than 16777216 bytes"),
    # the list of nodes
    ("no list", root("", consolidated_metadata=None), "has no consolidated metadata; run zarr.cons"),
    ("elsewhere", root("", consolidated_metadata={"kind": "url"}), "metadata that are not inline"),
    ("listless", root("", consolidated_metadata={"kind": "inline"}), "metadata without a list"),
    ("no object", lambda s: edit(s / "zarr.json", lambda d: listing(d).update(x=3)), "x' is a int"),
    ("list in list", root("full", consolidated_metadata={"metadata": {"x": {}}}), "full' has consol"),
    (
        "own list",
        own("full", consolidated_metadata={"metadata": {"x": {}}}),
        "'full/zarr.json' has consol",
    ),
    (
        "many nodes",
        many_nodes,
        "'zarr.json': the store has 10006 nodes|has 100.. nodes, more than 10000",
    ),
    ("an array", lambda s: shutil.copy(s / DRAW / "zarr.json", s), "'zarr.json' is that of an array"),
    # a node and the root disagree
    ("no node", lambda s: (s / LOSS / "zarr.json").unlink(), f"'{LOSS}/zarr.json' is missing, though"),
    ("fill differs", own(LOSS, fill_value=1.0), f"'{LOSS}/zarr.json' and 'zarr.json' disagree"),
    ("kind differs", root(DRAW, data_type="uint64"), f"'{DRAW}/zarr.json' and 'zarr.json' disagree"),
    ("smaller", own(LOSS, shape=[1, 2, 3]), f"'{LOSS}/zarr.json' and 'zarr.json' disagree"),
    (
        "node within",
        lambda s: shutil.copy(s / "zarr.json", s / LOSS / "c"),
        "is a node inside the array",
    ),
    # links and what is no file
    ("linked chunk", link(CHUNK, None), f"'{CHUNK}' is a symbolic link to .*outside"),
    ("linked folder", link(GROUP, None), f"'{GROUP}' is a symbolic link"),
    ("linked root", link("full", "/etc"), "'full' is a symbolic link to '/etc'"),
    ("dangling", link(CHUNK, "/nowhere"), f"'{CHUNK}' is a symbolic link to '/nowhere'"),
    ("linked metadata", link("zarr.json", None), "'zarr.json' is no regular file"),
    ("pipe", pipe(CHUNK), f"'{CHUNK}' is a device, a pipe"),
    ("pipe of metadata", pipe("zarr.json"), "'zarr.json' is no regular file"),
    ("pipe beside", pipe("full/other"), "'full/other' is a device, a pipe"),
    # chunks
    ("short chunk", resize(CHUNK, 27), f"'{CHUNK}' is truncated: it has 27 bytes, not 28; copy"),
    ("long chunk", resize(CHUNK, 29), f"'{CHUNK}' is too long: it has 29 bytes, not 28"),
    ("empty chunk", resize(CHUNK, 0), f"'{CHUNK}' is truncated: it has 0 bytes"),
    ("scalar chunk", resize("full/sample_stats/step/c", 1), "'full/sample_stats/step/c' is truncated"),
    ("short strings", resize(TEXT, 10), f"'{TEXT}' is truncated: it has 10 bytes, not 20 or more"),
    (
        "count",
        write(TEXT, strings(2**31 - 1, b"a", b"b", b"c")),
        f"'{TEXT}' says that it holds 2147483647",
    ),
    (
        "few strings",
        write(TEXT, strings(2, b"aaaa", b"bbbb")),
        f"'{TEXT}' says that it holds 2 strings",
    ),
    ("long strings", resize(TEXT, 2**30 + 1), f"'{TEXT}' has 1073741825 bytes of strings"),
]


@pytest.mark.parametrize(("name", "change", "words"), BAD, ids=[name for name, *_ in BAD])
def test_bad_stores_are_refused(store, name, change, words):
    change(store)
    with pytest.raises(StoreError, match=words) as caught:
        inspect(store)
    assert "; " in str(caught.value)  # what to do


def larger(store):
    own(LOSS, shape=[1, 400, 3])(store)
    own(DRAW, shape=[400])(store)
    shutil.copy(store / CHUNK, store / f"{LOSS}/c/0/100")


def unpublished(store):
    shutil.copytree(store / "full", store / "next")


def leftovers(store):
    for name in (f"{CHUNK}.0123.partial", "zarr.0123.partial", "full/.lock", f"{LOSS}/c/0/readme"):
        (store / name).write_bytes(b"x")


def dated(store):
    attributes(DRAW, units="days since 1900-01-01", calendar="standard", _FillValue=-1)(store)
    attributes(LOSS, units="nats", scale_factor=2.0, note=float("nan"))(store)


GOOD = [
    ("plain", lambda store: None),
    ("being extended", larger),
    ("with an unpublished group", unpublished),
    ("with leftovers", leftovers),
    ("with missing chunks", lambda store: shutil.rmtree(store / LOSS / "c")),
    ("of empty strings", write(TEXT, strings(3, b"", b"", b""))),
    ("with hexadecimal fill", both(LOSS, fill_value="0x7fc00000")),
    ("with infinite fill", both(LOSS, fill_value="-Infinity")),
    ("with dates", dated),
    ("large but empty", both(LOSS, shape=[1, 4, 2**58], dimension_names=["chain", "draw", "q"])),
    ("of others", root("", attributes={})),
]


@pytest.mark.parametrize(("name", "change"), GOOD, ids=[name for name, _ in GOOD])
def test_good_stores_pass_and_open(store, name, change):
    change(store)
    inspect(store)
    tree = xr.open_datatree(store, engine="zarr")
    assert tree[GROUP].sizes["draw"] == 4


def test_a_link_to_a_store_passes(store, tmp_path):
    (tmp_path / "link").symlink_to(store)
    inspect(tmp_path / "link")


def test_limits_are_the_callers(store):
    inspect(store, max_bytes=80)
    with pytest.raises(StoreError, match=r"query' is a coordinate.* 80 bytes, more than 79"):
        inspect(store, max_bytes=79)
    write(TEXT, strings(3, b"a" * 40, b"b" * 40, b"c"))(store)
    with pytest.raises(StoreError, match=f"'{TEXT}' has 101 bytes of strings"):
        inspect(store, max_bytes=100)


def test_strings_of_all_coordinates_count_together(store):
    shutil.copytree(store / "full", store / "other")
    consolidate(store)
    for name in ("full", "other"):
        write(TEXT.replace("full", name), strings(3, b"a" * 400, b"", b""))(store)
    inspect(store, max_bytes=900)
    with pytest.raises(StoreError, match=r"query' is a coordinate.* 840 bytes of strings"):
        inspect(store, max_bytes=800)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", "{}")


NO_STORE = [
    ("missing", lambda path: None, FileNotFoundError, "does not exist"),
    ("file", lambda path: path.write_text("x"), NotADirectoryError, "is a file"),
    ("zip", zipped, NotADirectoryError, "is a zip file; unpack it"),
    ("netCDF", lambda path: path.write_bytes(b"\x89HDF\r\n"), NotADirectoryError, "netCDF 4 file"),
    ("old netCDF", lambda path: path.write_bytes(b"CDF\x01"), NotADirectoryError, "netCDF 3 file"),
    ("pipe", os.mkfifo, NotADirectoryError, "is a device or a pipe"),
    ("empty", lambda path: path.mkdir(), StoreError, "is empty"),
    (
        "folder",
        lambda path: (path / "a").mkdir(parents=True),
        StoreError,
        "holds no zarr.json, but 'a'",
    ),
    (
        "format 2",
        lambda path: zarr.create_group(path, zarr_format=2),
        StoreError,
        "is of zarr format 2",
    ),
]


@pytest.mark.parametrize(("name", "make", "error", "words"), NO_STORE, ids=[row[0] for row in NO_STORE])
def test_what_is_no_store_is_said(tmp_path, name, make, error, words):
    make(tmp_path / "x")
    with pytest.raises(error, match=f"path='{tmp_path}/x' .*{words}"):
        inspect(tmp_path / "x")


@pytest.mark.parametrize("path", ["memory://x", "s3://bucket/x", "simplecache::file://x"])
def test_only_local_folders(path):
    with pytest.raises(StoreError, match="is not a local folder"):
        inspect(path)


@pytest.mark.parametrize("suffix", ["#1", "?1", ";1"])
def test_names_that_zarr_takes_for_another_folder(store, suffix):
    other = store.with_name(store.name + suffix)
    shutil.copytree(store, other)
    root("", attributes={"own": 1})(other)
    assert "own" not in xr.open_datatree(other, engine="zarr").attrs  # the danger
    with pytest.raises(StoreError, match="zarr would open another folder"):
        inspect(other)


def test_a_pickled_canary_does_not_run(store, tmp_path, monkeypatch):
    pickled(f"{GROUP}/evil")(store)
    listed = PICKLED | {"attributes": {"_ARRAY_DIMENSIONS": ["evil"]}}
    edit(store / "zarr.json", lambda document: listing(document).update({f"{GROUP}/evil": listed}))
    with pytest.raises(StoreError, match="evil' is not of zarr format 3"):
        inspect(store)
    assert not (tmp_path / "canary").exists()
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with zarr.config.set({"array.allow_unsafe_pickle_decode": True}), contextlib.suppress(TypeError):
        xr.open_datatree(store, engine="zarr")
    assert (tmp_path / "canary").exists()  # the danger


def test_a_link_is_followed_by_plain_xarray(store):
    link(CHUNK, None)(store)
    values = xr.open_datatree(store, engine="zarr")[LOSS].values
    np.testing.assert_array_equal(values[0, 2:].ravel(), np.arange(7.0, 13))


def test_declared_strings_are_allocated_by_plain_xarray(store):
    """Twelve bytes of a chunk make the decoder allocate what they declare before it looks further."""
    write(TEXT, strings(2**32 - 1, b"a"))(store)
    with pytest.raises((MemoryError, ValueError), match=r"allocate|corrupt"):
        xr.open_datatree(store, engine="zarr")
