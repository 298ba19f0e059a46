"""What a hub lists, and files that are as it says; whole models are fetched in test_pull.py."""

import hashlib

import pytest

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.repository import (
    MAX_SMALL_BYTES,
    CachedRepository,
    HubRepository,
    RemoteFile,
    _Bounded,
    check_listing,
    has_digest,
    open_repository,
)
from speechnar.store import Address
from tests.unit.loopback_hub import LFS_BYTES

ADDRESS = Address("owner/name")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL, LARGE = b"{}", b"x" * LFS_BYTES


@pytest.fixture
def repository(hub):
    hub.add(ADDRESS.repo, {"config.json": SMALL, "sub/weights": LARGE})
    return open_repository(ADDRESS)


def test_a_listing_has_lengths_and_hashes(repository):
    assert isinstance(repository, HubRepository)
    assert (repository.source, repository.commit) == (ADDRESS.repo, COMMIT)
    assert repository.names == {"config.json", "sub/weights"}
    assert repository.num_bytes("sub/weights") == LFS_BYTES


def test_files_are_fetched_once(hub, repository):
    for _ in range(2):
        assert repository.path("config.json").read_bytes() == SMALL
        assert repository.fetch("sub/weights").read_bytes() == LARGE
    assert hub.fetched() == ["config.json", "sub/weights"]
    with pytest.raises(ModelNotFoundError, match="owner/name: absent is missing"):
        repository.path("absent")


def test_what_is_large_is_not_asked_what_it_is():
    listing = {"config.json": RemoteFile(MAX_SMALL_BYTES + 1, "0" * 64)}
    with pytest.raises(CheckpointError, match=r"config\.json must have at most"):
        HubRepository(ADDRESS, COMMIT, listing).path("config.json")


@pytest.mark.parametrize("names", [["../a"], ["/a"], ["a/../../b"], ["C:\\a"], [""], [str(i) for i in range(10_001)]])
def test_impossible_listings(names):
    with pytest.raises(CheckpointError, match="no checkpoint can hold"):
        check_listing(ADDRESS, COMMIT, dict.fromkeys(names, RemoteFile(0, "")))


@pytest.mark.parametrize("commit", ["", "main", "../" * 13 + "x", COMMIT[:-1], COMMIT + "0"])
def test_impossible_commits(commit):
    check_listing(ADDRESS, COMMIT, {})
    with pytest.raises(CheckpointError, match="must name the commit"):
        check_listing(ADDRESS, commit, {})


def test_digests(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    # Of `printf 'hello\n' | git hash-object --stdin`.
    assert has_digest(path, RemoteFile(6, "ce013625030ba8dba906f756967f9e9ca394464a"))
    sha256 = hashlib.sha256(b"hello\n").hexdigest()
    assert has_digest(path, RemoteFile(6, sha256))
    assert not has_digest(path, RemoteFile(5, sha256))
    assert not has_digest(path, RemoteFile(6, "0" * 64))
    assert not has_digest(path, RemoteFile(6, ""))


def test_a_bounded_file_is_continued_and_begun_anew(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"abc")
    with _Bounded(path, 5) as file:
        assert file.tell() == 3
        file.write(b"de")
        with pytest.raises(ValueError, match="longer than the 5 bytes"):
            file.write(b"f")
        file.seek(0)  # as the client does if the server sends everything again
        file.truncate()
        file.write(b"vwxyz")
    assert path.read_bytes() == b"vwxyz"


def test_the_cache_of_the_hubs_client_is_checked_by_its_names(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / COMMIT
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    digest = hashlib.sha256(LARGE).hexdigest()
    (blobs / digest).write_bytes(LARGE)
    (snapshot / "weights").symlink_to(blobs / digest)
    repository = CachedRepository(ADDRESS, snapshot)
    assert (repository.commit, repository.names, repository.num_bytes("weights")) == (COMMIT, {"weights"}, LFS_BYTES)
    assert repository.fetch("weights").read_bytes() == LARGE
    (blobs / digest).write_bytes(LARGE[:-1] + b"y")
    with pytest.raises(CheckpointError, match="is damaged; remove"):
        repository.fetch("weights")


@pytest.mark.parametrize(
    ("options", "address", "message"),
    [
        ({"gated": True}, ADDRESS, r"is gated: accept its conditions at http://127\.0\.0\.1:\d+/owner/name"),
        ({}, Address("owner/name", "v9"), "has no revision 'v9'"),
        ({}, Address("owner/other"), "neither here nor on the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_said(hub, options, address, message):
    hub.add(ADDRESS.repo, {"config.json": SMALL}, **options)
    with pytest.raises(ModelNotFoundError, match=message):
        open_repository(address).fetch("config.json")
