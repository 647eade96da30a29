"""The look-alike Hub is one to the real clients, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from hub_server import HubServer, client


def test_repos_branches_and_files_of_every_kind(tmp_path):
    big = random.Random(0).randbytes(300_000)
    (tmp_path / "big.bin").write_bytes(big)
    code = """
        import sys
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
        api, repo, path = HfApi(), "tester/thing", sys.argv[1]
        assert api.whoami()["name"] == "tester"
        assert not api.repo_exists(repo)
        api.create_repo(repo, private=True)
        api.create_repo(repo, exist_ok=True)
        root = api.list_repo_commits(repo)[-1].commit_id
        api.upload_file(path_or_fileobj=b"one", path_in_repo="a/one.txt", repo_id=repo)
        api.upload_file(path_or_fileobj=path, path_in_repo="a/big.bin", repo_id=repo)
        api.create_branch(repo, branch="step64", revision=root)
        operations = [CommitOperationAdd(f"many/{i:03}.txt", str(i).encode()) for i in range(30)]
        api.create_commit(repo, operations, commit_message="many", revision="step64")
        assert len([f for f in api.list_repo_files(repo, revision="step64") if f.startswith("many/")]) == 30
        assert "a/one.txt" not in api.list_repo_files(repo, revision="step64")
        gone = [CommitOperationDelete("many/", is_folder=True)]
        api.create_commit(repo, gone, commit_message="none", revision="step64")
        assert api.list_repo_files(repo, revision="step64") == [".gitattributes"]
        found = {one.path: one for one in api.get_paths_info(repo, ["a/big.bin", "a/one.txt", "none"])}
        assert len(found) == 2 and found["a/big.bin"].lfs and not found["a/one.txt"].lfs
        print(found["a/big.bin"].lfs.sha256)
        stale, late = api.repo_info(repo).sha, [CommitOperationAdd("late.txt", b"late")]
        api.upload_file(path_or_fileobj=b"two", path_in_repo="two.txt", repo_id=repo)
        for refused, call in [
            (HfHubHTTPError, lambda: api.create_commit(repo, late, commit_message="late", parent_commit=stale)),
            (HfHubHTTPError, lambda: api.create_repo("other/thing")),
            (HfHubHTTPError, lambda: api.create_branch(repo, branch="step64")),
            (RevisionNotFoundError, lambda: api.repo_info(repo, revision="step65")),
            (RepositoryNotFoundError, lambda: HfApi(token=False).repo_info(repo)),
        ]:
            try:
                call()
            except refused:
                continue
            raise AssertionError(refused)
        api.create_tag(repo, tag="v1")
        refs = api.list_repo_refs(repo)
        assert {ref.name for ref in refs.branches} == {"main", "step64"} and refs.tags[0].name == "v1"
        assert open(api.hf_hub_download(repo, "a/big.bin"), "rb").read() == open(path, "rb").read()
        assert open(api.hf_hub_download(repo, "a/one.txt", revision="v1")).read() == "one"
    """
    with HubServer(tmp_path / "hub", page_size=7, part_bytes=100_000) as hub:
        printed = client(hub, tmp_path / "home", code, tmp_path / "big.bin")
        assert printed.strip() == hashlib.sha256(big).hexdigest()
        assert len(hub.asked("PUT", "/lfs/[0-9a-f]{64}/[0-9]+$")) == 3  # in parts
        assert any("cursor" in one.query for one in hub.asked("GET", "/tree/"))
        assert hub.repo("tester/thing", "model").private
    with HubServer(tmp_path / "hub") as again:  # the folder holds it all
        assert again.content("tester/thing", "a/big.bin", type_="model") == big
        assert again.repo("tester/thing", "model").tags["v1"] == again.repo("tester/thing", "model").sha("main")
        # What is there already is not sent again.
        code = """
            import sys
            from huggingface_hub import HfApi
            HfApi().upload_file(path_or_fileobj=sys.argv[1], path_in_repo="copy.bin", repo_id="tester/thing")
        """
        client(again, tmp_path / "home", code, tmp_path / "big.bin")
        assert not again.asked("PUT") and again.content("tester/thing", "copy.bin", type_="model") == big


def test_a_folder_is_a_dataset_that_is_read_in_ranges(tmp_path):
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps({"text": f"story {i}"}) + "\n" for i in range(20)))
    (folder / "data" / "blob.bin").write_bytes(bytes(range(256)) * 40_000)
    code = """
        import datasets
        from huggingface_hub import HfFileSystem
        assert datasets.load_dataset("some/stories", split="train[:10%]")["text"][:] == ["story 0", "story 1"]
        assert next(iter(datasets.load_dataset("some/stories", split="train", streaming=True)))["text"] == "story 0"
        file_system = HfFileSystem()
        assert file_system.glob("datasets/some/stories/**/*.jsonl") == ["datasets/some/stories/data/train.jsonl"]
        with file_system.open("datasets/some/stories/data/blob.bin", "rb", block_size=1 << 16) as file:
            file.seek(5_000_000)
            assert file.read(3) == bytes([5_000_000 % 256, 5_000_001 % 256, 5_000_002 % 256])
    """
    with HubServer(tmp_path / "hub") as hub:
        first = hub.add("some/stories", folder)
        assert hub.add("some/stories", folder) == first
        client(hub, tmp_path / "home", code, token=None)
        assert sum(one.sent for one in hub.asked("GET", "blob.bin")) < 1_000_000
        (folder / "data" / "train.jsonl").unlink()
        assert hub.add("some/stories", folder) != first
        assert "data/train.jsonl" in hub.repo("some/stories").files(first)
        assert "data/train.jsonl" not in hub.repo("some/stories").files()


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_nothing_is_written_without_the_owners_token(tmp_path, token):
    code = """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        for call in (HfApi().whoami, lambda: HfApi().create_repo("tester/x")):
            try:
                call()
            except HfHubHTTPError as error:
                assert error.response.status_code == 401, error
            except Exception as error:
                assert "oken" in str(error), error
            else:
                raise AssertionError(call)
    """
    with HubServer(tmp_path / "hub") as hub:
        client(hub, tmp_path / "home", code, token=token)
        assert not hub.store.repos
