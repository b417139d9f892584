"""Bad stores and what is said of each; stores that pass; and that the dangers are real."""

import contextlib
import json
import os
import pickle
import re
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
from dtda_prob.storage.reading import load
from dtda_prob.storage.safe import inspect

GROUP = "full/posterior_predictive"
LOSS, DRAW, QUERY = f"{GROUP}/loss", f"{GROUP}/draw", f"{GROUP}/query"
FLAGS = "full/sample_stats/diverging"
CHUNK, TEXT = f"{LOSS}/c/0/1/0", f"{QUERY}/c/0"
CRC = {"name": "crc32c"}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "original"
    root = zarr.create_group(path, attributes={"dtda_prob": json.dumps({"format": 2})})
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
    """List another node in the root, and write it where its name is that of a folder."""

    def change(store):
        def listed(document):
            listing(document)[name] = listing(document)[like] | fields

        edit(store / "zarr.json", listed)
        if re.fullmatch(r"[\w/]+\w", name) and not name.startswith("/"):
            shutil.copytree(store / like, store / name)
            edit(store / name / "zarr.json", lambda document: document.update(fields))

    return change


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
    text = json.dumps({"zarr_format": 3, "node_type": "group"})
    for i in range(2_001):
        (store / f"g{i}").mkdir()
        (store / f"g{i}/zarr.json").write_text(text)


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
    ("format 2 inside", pickled(f"{GROUP}/evil"), "evil/.zarray' is of zarr format 2,"),
    ("format 2 listed", node(f"{GROUP}/x", zarr_format=2), "x' is neither a group nor"),
    ("format 2 list", write(".zmetadata", b"{}"), ".zmetadata' is of zarr format 2,"),
    ("node type", root("full", node_type="link"), "zarr.json: full' is neither a group nor"),
    ("field", both(LOSS, evil={"must_understand": False}), "loss' has evil"),
    ("field of group", own("full", evil=1), "full' has the unknown fields ['evil']"),
    ("transformer", both(LOSS, storage_transformers=[{"name": "x"}]), "loss' has storage_transformers"),
    ("pickle", both(LOSS, codecs=[LITTLE, {"name": "numcodecs.pickle"}]), "loss' has codecs"),
    ("zstd", both(LOSS, codecs=[LITTLE, {"name": "zstd"}]), "loss' has codecs"),
    ("no checksum", both(LOSS, codecs=[LITTLE]), "loss' has codecs"),
    ("sharding", own(LOSS, codecs=[{"name": "sharding_indexed"}]), "loss' has codecs"),
    ("big endian", both(LOSS, codecs=[{"name": "bytes"}, CRC]), "loss' has codecs"),
    ("codecs no list", both(LOSS, codecs=3), "loss' has codecs"),
    ("kind", both(LOSS, data_type="complex64"), "loss' has data type 'complex64' and"),
    ("struct", both(LOSS, data_type={"name": "structured"}), "loss' has data type"),
    ("grid", both(LOSS, chunk_grid={"name": "rectilinear"}), "loss' has chunk shape None"),
    ("keys", both(LOSS, chunk_key_encoding={"name": "v2"}), "loss' has chunk_key_encoding"),
    # shapes
    ("negative", both(LOSS, shape=[1, -4, 3]), "loss' has shape [1, -4, 3],"),
    ("fraction", both(LOSS, shape=[1, 4.0, 3]), "loss' has shape [1, 4.0, 3],"),
    ("boolean", both(LOSS, shape=[True, 4, 3]), "loss' has shape [True, 4, 3],"),
    ("not a number", both(LOSS, shape=[1, float("nan"), 3]), "loss' has shape [1, nan,"),
    ("huge", both(LOSS, shape=[1, 2**63, 3]), "loss' has shape [1, 9223372036854775808"),
    ("overflow", both(LOSS, shape=[2**62, 2**62, 3]), "loss' declares 2552117751907038"),
    ("chunk of none", both(LOSS, chunk_grid=chunks(1, 0, 3)), "loss' has chunk shape ["),
    ("chunk of list", both(LOSS, chunk_grid=chunks(1, [2, 2], 3)), "loss' has chunk sh"),
    ("chunk too big", both(LOSS, chunk_grid=chunks(1, 2**30, 3)), "loss' declares chunks of"),
    ("chunk dims", both(LOSS, chunk_grid=chunks(2, 3)), "loss' has shape (1, 4, 3),"),
    ("coordinate", both(DRAW, shape=[10**12]), "draw' declares 8000000000000 bytes in"),
    ("coordinate in crumbs", both(DRAW, shape=[10**6], chunk_grid=chunks(1)), "c/0' is too long:"),
    ("own coordinate", own(DRAW, shape=[10**12]), "draw' declares 8000000000000 bytes"),
    # fill values and dimensions
    ("fill", both(LOSS, fill_value="0x12"), "loss' has data type 'float32' and"),
    ("fill range", both(DRAW, fill_value=2**70), "draw' has data type 'int64' and"),
    ("fill of text", both(QUERY, fill_value="x" * 10_000), "query' has data type 'stri"),
    ("no dims", both(LOSS, dimension_names=None), "loss' has shape (1, 4, 3),"),
    ("nameless dim", both(LOSS, dimension_names=["chain", None, "query"]), "loss' has"),
    ("few dims", both(LOSS, dimension_names=["chain", "draw"]), "loss' has shape (1, 4"),
    (
        "dim twice",
        both(LOSS, dimension_names=["query", "draw", "query"]),
        "loss' has shape (1, 4, 3)",
    ),
    ("missing field", without(LOSS, "fill_value"), "loss' and 'zarr.json', which lists"),
    ("sizes", both(DRAW, shape=[5]), "draw/c/1' is missing"),
    ("sizes of parents", node("full/other", shape=[7]), "other/c/1' is missing"),
    ("scalar", node(f"{GROUP}/chain", "full/sample_stats/step"), "cannot be opened"),
    # attributes that xarray acts on
    ("dates", attributes(LOSS, units="days since " + "9" * 10_000), "loss' has the att"),
    ("calendar", attributes(LOSS, units="days since 1900", calendar="x"), "loss' has t"),
    ("missing", attributes(LOSS, missing_value=[0.0] * 9), "loss' has the attribute mi"),
    ("scale", attributes(LOSS, scale_factor=[2.0] * 9), "loss' has the attribute scale"),
    ("encoding", attributes(QUERY, _Encoding="rot13"), "query' has the attribute _Enco"),
    ("fill attribute", attributes(LOSS, _FillValue=0), "loss' has the attribute _FillV"),
    ("fill out of range", attributes(DRAW, _FillValue=2**63), "draw' has the attribute"),
    ("scaled strings", attributes(QUERY, scale_factor=2), "query' has the attribute sc"),
    ("coordinates of group", own("full", attributes={"coordinates": []}), "full' has t"),
    ("coordinates", attributes(LOSS, coordinates=3), "loss' has the attribute coordina"),
    ("dtype", attributes(LOSS, dtype="S999999999"), "loss' has the attribute dtype"),
    ("attributes", both(LOSS, attributes=[]), "loss' has attributes that are no JSON o"),
    # the manifest
    ("newer", root("", attributes={"dtda_prob": '{"format": 3}'}), "has format 3, written by a n"),
    ("format", root("", attributes={"dtda_prob": '{"format": "1"}'}), "has format '1', not 2"),
    ("manifest", own("full", attributes={"dtda_prob": {}}), "is not a JSON text"),
    ("no JSON", own("full", attributes={"dtda_prob": "{"}), "is damaged, no JSON: Expecting"),
    # names
    ("up", node("../x"), "zarr.json' lists a node '../x', whose"),
    ("up inside", node(f"{GROUP}/../../../x"), "whose name is no path inside the store"),
    ("absolute", node("/etc/x"), "whose name is no path inside the store"),
    ("empty name", node(f"{GROUP}//x"), "whose name is no path inside the store"),
    ("backslash", node(f"{GROUP}/..\\x"), "whose name is no path inside the store"),
    ("unprintable", node(f"{GROUP}/x\0"), "whose name is no path inside the store"),
    ("orphan", node("a/b/c"), "cannot be opened"),
    ("node in array", node(f"{LOSS}/x"), "is a node inside the array"),
    ("too deep", node("/".join("a" * 40)), "whose name is no path inside the store"),
    # JSON
    ("truncated", resize("zarr.json", 500), "zarr.json' is damaged, no JSON: Unterminated"),
    ("empty", write("full/zarr.json", b""), "full' is damaged, no JSON: Expecting"),
    ("not UTF-8", write("full/zarr.json", b'{"\xff": 1}'), "full' is damaged, no JSON:"),
    ("UTF-16", rewrite("full/zarr.json", lambda d: d.decode().encode("utf-16")), "full' is dam"),
    ("list", write("full/zarr.json", b"[]"), "full' holds a list"),
    ("deep", nested(1000), "full' is nested more than 32 deep"),
    ("very deep", nested(100_000), "full' is nested more than 32 deep"),
    ("containers", nested(1_100_000), "full' holds more than 1000000 lists"),
    (
        "key twice",
        rewrite("zarr.json", lambda d: d.replace(b'"node_type"', b'"node_type": "array", "node_type"')),
        "zarr.json' is damaged, no JSON: the",
    ),
    ("digits", write("full/zarr.json", b'{"a": %s}' % (b"9" * 5000)), "full' is damage"),
    ("large", resize("zarr.json", 2**26 + 1), "zarr.json' has more than 67108864 bytes,"),
    ("large own", resize("full/zarr.json", 2**24 + 1), "full' has more than 16777216 b"),
    # the list of nodes
    ("no list", root("", consolidated_metadata=None), "zarr.json' has no consolidated metadata"),
    ("elsewhere", root("", consolidated_metadata={"kind": "url"}), "zarr.json' has no consolidat"),
    ("listless", root("", consolidated_metadata={"kind": "inline"}), "zarr.json' has consolidate"),
    (
        "no object",
        lambda s: edit(s / "zarr.json", lambda d: listing(d).update(x=3)),
        "zarr.json: x' is a int, not a JSON object",
    ),
    (
        "list in list",
        root("full", consolidated_metadata={"metadata": {"x": {}}}),
        "zarr.json: full' has consolidated metadata of its own",
    ),
    ("own list", own("full", consolidated_metadata={"metadata": {"x": {}}}), "full' ha"),
    ("many nodes", many_nodes, "holds more than 10000 nodes or 2000 groups"),
    ("an array", lambda s: shutil.copy(s / DRAW / "zarr.json", s), "full' is a node in"),
    # a node and the root disagree
    ("no node", lambda s: (s / LOSS / "zarr.json").unlink(), "loss' is missing, though"),
    ("fill differs", own(LOSS, fill_value=1.0), "loss' and 'zarr.json', which lists it"),
    ("kind differs", root(DRAW, data_type="uint64"), "draw' and 'zarr.json', which"),
    ("smaller", own(LOSS, shape=[1, 2, 3]), "loss' and 'zarr.json', which lists it,"),
    ("node within", lambda s: shutil.copy(s / "zarr.json", s / LOSS / "c"), "c' is a n"),
    # links, and what is no file
    ("linked chunk", link(CHUNK, None), "1/0' is a symbolic link to"),
    ("linked folder", link(GROUP, None), "full/posterior_predictive' is a symbolic link to"),
    ("linked root", link("full", "/etc"), "full' is a symbolic link to '/etc'"),
    ("dangling", link(CHUNK, "/nowhere"), "1/0' is a symbolic link to '/nowhere'"),
    ("linked metadata", link("zarr.json", None), "zarr.json' is a symbolic link to"),
    ("pipe", pipe(CHUNK), "1/0' is a device, a pipe"),
    ("pipe of metadata", pipe("zarr.json"), "zarr.json' is a device, a pipe"),
    ("pipe beside", pipe("full/other"), "full/other' is a device, a pipe"),
    # chunks
    ("short chunk", resize(CHUNK, 27), "1/0' is truncated: it has 27 bytes, not 28"),
    ("long chunk", resize(CHUNK, 29), "1/0' is too long: it has 29 bytes, not 28"),
    ("empty chunk", resize(CHUNK, 0), "1/0' is truncated: it has 0 bytes, not 28"),
    ("scalar chunk", resize("full/sample_stats/step/c", 1), "step/c' is truncated: it has 1 byte"),
    ("short strings", resize(TEXT, 10), "c/0' is truncated: it has 10 bytes, not 20"),
    ("count", write(TEXT, strings(2**31 - 1, b"a", b"b", b"c")), "c/0' says that it holds 214748"),
    ("few strings", write(TEXT, strings(2, b"aaaa", b"bbbb")), "c/0' says that it holds 2 string"),
    ("long strings", resize(TEXT, 2**30 + 1), "c/0' is too long: it has"),
    (
        "manifest of other types",
        own("full", attributes={"dtda_prob": '{"kind": 3}'}),
        "has kind 3, not a str",
    ),
    ("blocks of text", own("full", attributes={"dtda_prob": '{"grid": "x"}'}), "has grid 'x', no"),
    (
        "blocks of none",
        own("full", attributes={"dtda_prob": '{"grid": {"draw": 0}}'}),
        "has a grid whose",
    ),
    (
        "long manifest",
        own("full", attributes={"dtda_prob": '"%s"' % ("x" * 2**20)}),
        "is not a JSON text",
    ),
    ("missing label", lambda s: (s / DRAW / "c/0").unlink(), "draw/c/0' is missing"),
    ("missing values", lambda s: (s / CHUNK).unlink(), "1/0' is missing"),
    ("missing scalar", lambda s: (s / "full/sample_stats/step/c").unlink(), "step/c' is missing"),
    ("flipped label", rewrite(f"{DRAW}/c/0", lambda d: b"x" + d[1:]), "draw/c/0' does not have i"),
    (
        "much declared",
        both(f"{FLAGS}", shape=[2**34], chunk_grid=chunks(2**30), dimension_names=["z"]),
        "is missing",
    ),
]


@pytest.mark.parametrize(("name", "change", "words"), BAD, ids=[name for name, *_ in BAD])
def test_bad_stores_are_refused(store, name, change, words):
    change(store)
    with pytest.raises(StoreError) as caught:
        load(store)
    assert words in str(caught.value).replace("/zarr.json'", "'")
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
    attributes(DRAW, units="days since 1900-01-01", calendar="standard")(store)
    attributes(LOSS, units="nats", note=float("nan"))(store)


GOOD = [
    ("plain", lambda store: None),
    ("being extended", larger),
    ("with an unpublished group", unpublished),
    ("with leftovers", leftovers),
    ("of empty strings", write(TEXT, strings(3, b"", b"", b""))),
    ("with hexadecimal fill", both(LOSS, fill_value="0x7fc00000")),
    ("with infinite fill", both(LOSS, fill_value="-Infinity")),
    ("with dates", dated),
    ("large but empty", both(LOSS, shape=[1, 4, 2**20], dimension_names=["chain", "draw", "q"])),
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
    with pytest.raises(StoreError, match=r"query' is a coordinate.* 80 bytes"):
        inspect(store, max_bytes=79)
    write(TEXT, strings(3, b"a" * 40, b"b" * 40, b"c"))(store)
    with pytest.raises(StoreError, match=f"'{TEXT}' is too long: it has 101 bytes"):
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
    ("file", lambda path: path.write_text("x"), NotADirectoryError, "is not a folder, as a store is"),
    ("zip", zipped, NotADirectoryError, "is not a folder, as a store is"),
    (
        "netCDF",
        lambda path: path.write_bytes(b"\x89HDF\r\n"),
        NotADirectoryError,
        "is not a folder, as a store is",
    ),
    (
        "old netCDF",
        lambda path: path.write_bytes(b"CDF\x01"),
        NotADirectoryError,
        "is not a folder, as a store is",
    ),
    ("pipe", os.mkfifo, NotADirectoryError, "is not a folder, as a store is"),
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
    with pytest.raises(StoreError, match=r"evil/.zarray' is of zarr format 2"):
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
