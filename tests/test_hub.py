"""Publishing: what the Hub holds is what was made, nothing is sent twice, a refusal is one line and costs nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from conftest import call
from hub_server import TOKEN, Answer, HubServer, client
from suite.base import hub as client_side
from suite.base.errors import HubError, TokensError
from suite.hub import cards, publish

REPO = "tester/odd"


@pytest.fixture
def tokens(corpus, tokenizer_dir, tmp_path) -> list:
    """The arguments of a `suite tokenize` that takes a second: splits train and validation in one folder."""
    common = ["-i", corpus, "-t", tokenizer_dir, "-l", 32, "-c", 60, "--out-dir", tmp_path / "tokens"]
    call("tokenize", *common, "-s", "train[:20%]", "--as", "validation")
    return [*common, "-s", "train[20%:]"]


def published(hub: HubServer) -> dict[str, bytes]:
    files = hub.repo(REPO).files()
    return {path: hub.content(REPO, path) for path in files if path != ".gitattributes"}


def sent(hub: HubServer) -> list[str]:
    """What changed the Hub, or asked to."""
    return [one.path for one in hub.requests if one.method != "GET" and "validate-yaml" not in one.path]


def test_tokens_are_published_as_they_lie_privately_and_once(hub, tokens, tmp_path):
    printed = call("tokenize", *tokens, "--out-repo", REPO)
    folder, there = tmp_path / "tokens", published(hub)
    assert f"datasets/{REPO} (private)" in printed and hub.repo(REPO).private
    local = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    shards = {name for name in local if re.search(r"-[0-9]{5}\.parquet$", name)}
    assert len(shards) > 3 and {f"data/{name}" for name in shards} == {name for name in there if name[:5] == "data/"}
    for name, path in local.items():
        if not Path(name).name.startswith("."):
            assert there[f"data/{name}" if name in shards else name] == path.read_bytes(), name
    assert len(hub.repo(REPO).commits) == 2  # the Hub's own first one, and all of ours at once
    hub.requests.clear()
    assert "nothing to send" in call("tokenize", *tokens, "--out-repo", REPO)
    assert sent(hub) == []


def test_load_dataset_and_from_pretrained_read_what_was_published(hub, tokens, tmp_path, corpus, tokenizer_dir):
    call("tokenize", *tokens, "--out-repo", REPO, "--public")
    assert not hub.repo(REPO).private
    trained = ["-i", corpus, "-v", 400, "--out-dir", tmp_path / "trained"]
    call("train_tokenizer", *trained, "--out-repo", "tester/words")
    hub.requests.clear()
    assert "nothing to send" in call("train_tokenizer", *trained, "--out-repo", "tester/words")
    assert sent(hub) == []
    code = f"""
        import json
        from datasets import load_dataset
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained("tester/words")
        rows = load_dataset("{REPO}")
        tenth = load_dataset("{REPO}", split="train[:10%]")
        ids, of = tokenizer("a fox <eos>")["input_ids"], {{name: split["tokens"][:] for name, split in rows.items()}}
        print(json.dumps([ids, of["train"], of["validation"], len(tenth), tokenizer.bos_token]))
    """
    ids, train, validation, tenth, bos = json.loads(client(hub, tmp_path / "home", code).splitlines()[-1])
    from suite.data import shards, tokenizer

    ours = shards.read(tmp_path / "tokens")
    assert train == ours.rows("train").tolist() and validation == ours.rows("validation").tolist()
    assert tenth == round(len(train) / 10) and bos == "<bos>"
    special = [1]  # the library reads a special token's name in a text as the token
    assert ids == tokenizer.load(tokenizer_dir).encode("a fox ") + special


def test_what_the_hubs_owner_adds_to_a_card_stays(hub, tokens):
    from huggingface_hub import HfApi

    call("tokenize", *tokens, "--out-repo", REPO)
    card = published(hub)["README.md"].decode()
    edited = card.replace("---\n", "---\nlicense: mit\n", 1).replace("Vocabulary", "Thing") + "\nCite me.\n"
    HfApi().upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    call("tokenize", *tokens, "--out-repo", REPO)
    after = published(hub)["README.md"].decode()
    assert "license: mit" in after and after.endswith("\nCite me.\n") and "Vocabulary" in after
    assert cards.merged(card, after) == after and cards.merged(card, None) == card
    commits = len(hub.repo(REPO).commits)
    call("tokenize", *tokens, "--out-repo", REPO)
    assert len(hub.repo(REPO).commits) == commits


def test_shards_of_an_earlier_publication_go_and_those_of_others_are_refused(hub, tokens, tmp_path):
    from huggingface_hub import HfApi

    call("tokenize", *tokens, "--out-repo", REPO)
    before = published(hub)
    shutil.rmtree(tmp_path / "tokens")
    tokens[tokens.index("-c") + 1] = 1000
    call("tokenize", *tokens, "--out-repo", REPO)
    after = published(hub)
    assert "data/train-00001.parquet" in before and "data/train-00001.parquet" not in after
    HfApi().upload_file(
        path_or_fileobj=before["data/train-00001.parquet"],
        path_in_repo="data/train-00007.parquet",
        repo_id=REPO,
        repo_type="dataset",
    )
    with pytest.raises(HubError, match=r"holds data/train-00007\.parquet"):
        call("tokenize", *tokens, "--out-repo", REPO)


def first_times(count: int, answer: Answer, method: str, path: str):
    """A fault: the first requests of a kind are answered so."""
    left = [count]

    def fault(request):
        if left[0] and request.method == method and path in request.path:
            left[0] -= 1
            return answer
        return None

    return fault


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (first_times(99, Answer(401), "GET", "/api/datasets"), "does not accept the token"),
        (first_times(99, Answer(403), "POST", "/commit/"), "the token may not do this"),
        (first_times(99, Answer(429, headers={"Retry-After": "3000"}), "POST", "/preupload/"), "in 3000 seconds"),
        (first_times(99, Answer(500), "POST", "/commit/"), "in trouble"),
        (first_times(99, Answer(hang=3), "POST", "/commit/"), "did not answer within 0.5 seconds"),
    ],
    ids=["401", "403", "429", "500", "hangs"],
)
def test_a_refusal_is_one_line_and_the_tokens_stay(hub, tokens, tmp_path, monkeypatch, fault, line):
    monkeypatch.setattr(client_side, "ANSWER_SECONDS", 0.5)
    hub.fault = fault
    with pytest.raises(HubError, match=line) as refused:
        call("tokenize", *tokens, "--out-repo", REPO)
    said = str(refused.value)
    assert said.startswith(f"{REPO}: ") and "\n" not in said and "is finished and kept" in said
    assert TOKEN not in said and (tmp_path / "tokens" / "manifest.json").is_file()
    hub.fault = lambda request: None
    assert "read back and compared" in call("tokenize", *tokens, "--out-repo", REPO)


@pytest.mark.parametrize("lost", ["/commit/", "/preupload/", "/lfs/", "/tree/", "/api/repos/create"])
def test_trouble_that_passes_is_waited_for(hub, tokens, monkeypatch, lost):
    method = {"/lfs/": "PUT", "/tree/": "GET"}.get(lost, "POST")
    hub.fault = first_times(1, Answer(429, headers={"Retry-After": "0"}), method, lost)
    call("tokenize", *tokens, "--out-repo", REPO)
    assert "data/train-00000.parquet" in published(hub)


def test_a_commit_whose_answer_was_lost_is_not_made_again(hub, tokens):
    commit = hub.store.commit
    lost = []

    def forgetful(*arguments, **named):
        sha = commit(*arguments, **named)
        if arguments[3].startswith("Tokens") and not lost:
            lost.append(sha)
            raise ConnectionResetError
        return sha

    hub.store.commit = forgetful
    call("tokenize", *tokens, "--out-repo", REPO)
    assert hub.repo(REPO).branches["main"] == lost[0]


def test_what_the_hub_garbles_is_not_called_published(hub, tokens):
    put = hub.store.put
    hub.store.put = lambda content: put(content)

    def garble(files, key, value, apply=hub._http.RequestHandlerClass.apply):
        if value.get("path") == "manifest.json":
            value = {**value, "content": "e30="}
        return apply(handler, files, key, value)

    handler = type("Handler", (), {"hub": hub})()
    hub._http.RequestHandlerClass.apply = lambda self, files, key, value: garble(files, key, value)
    with pytest.raises(HubError, match=r"does not hold what was sent: manifest.json"):
        call("tokenize", *tokens, "--out-repo", REPO)


def test_nothing_begins_when_publishing_cannot_end(hub, corpus, tokenizer_dir, tmp_path, monkeypatch):
    job = ["-i", corpus, "-t", tokenizer_dir, "-l", 32, "--out-dir", tmp_path / "tokens", "--out-repo"]
    with pytest.raises(HubError, match="a repo on the Hub is OWNER/NAME"):
        call("tokenize", *job, "odd")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="does not accept the token"):
        call("tokenize", *job, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="no token to publish with"):
        call("tokenize", *job, REPO)
    assert not (tmp_path / "tokens").exists() and not hub.store.repos


def test_without_a_network_the_tokens_stay(hub, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"cannot be reached .* the same command again publishes it"):
        call("tokenize", *tokens, "--out-repo", REPO)
    assert "train" in json.loads((tmp_path / "tokens" / "manifest.json").read_text())["splits"]


def test_the_token_is_nowhere_but_in_its_header(hub, tokens, tmp_path, corpus, monkeypatch):
    hub.accounts = {"hf_secretsecretsecretsecret": ("tester", ())}
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    printed = call("tokenize", *tokens, "--out-repo", REPO)
    printed += call("train_tokenizer", "-i", corpus, "--out-dir", tmp_path / "t", "--out-repo", "tester/words")
    assert "secret" not in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    with_token = [one for one in hub.requests if "secret" in one.headers.get("authorization", "")]
    assert with_token
    for one in hub.requests:
        others = {name: value for name, value in one.headers.items() if name != "authorization"}
        assert "secret" not in f"{one.path}{one.query}{others}" and b"hf_secret" not in one.body
    # Planted in a file that would go along: nothing is sent.
    (tmp_path / "tokens" / "tokenizer" / "tokenizer_config.json").write_text(
        '{"eos_token": "hf_secretsecretsecretsecret"}'
    )
    hub.requests.clear()
    with pytest.raises(HubError, match="holds your Hub token"):
        publish.tokens(tmp_path / "tokens", REPO, public=False)
    assert sent(hub) == []


def test_what_was_published_comes_back_and_what_came_wrong_does_not_stay(hub, tokens, tmp_path):
    call("tokenize", *tokens, "--out-repo", REPO)
    back, folder = tmp_path / "back", tmp_path / "tokens"
    hub.fault = first_times(1, Answer(404), "GET", "data/train-00001")
    with pytest.raises(HubError, match=r"not found|no such file"):
        call("fetch", REPO, "--out-dir", back)
    assert (back / "train-00000.parquet").is_file() and not (back / "manifest.json").exists()
    hub.requests.clear()
    assert "every file checked" in call("fetch", REPO, "--out-dir", back)
    assert not hub.asked("GET", "resolve.*train-00000") and hub.asked("GET", "resolve.*train-00001")
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert (back / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert not list(back.rglob(".*.tmp"))
    with pytest.raises(TokensError, match="holds other tokens"):
        call("tokenize", *tokens[:-1], "train[50%:]", "--as", "half")
        call("fetch", REPO, "--out-dir", folder)


def test_a_manifest_from_the_hub_cannot_name_a_file_elsewhere(hub, tokens, tmp_path):
    call("tokenize", *tokens)
    folder = tmp_path / "tokens"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["name"] = "../outside.parquet"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    hub.add(REPO, folder)
    with pytest.raises(HubError, match=r"no name for a file of tokens"):
        call("fetch", REPO, "--out-dir", tmp_path / "back")
    assert not (tmp_path / "outside.parquet").exists()
