"""What the look-alike Hub answers: repos, branches, listings, files by range, LFS and commits."""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from hub_http import Answer, Plumbing, RefusalError, route
from hub_store import File, date, listed, takes_lfs

TYPE = r"(?P<type>model|dataset|space)s"
REPO = rf"/api/{TYPE}/(?P<id>[^/]+/[^/]+)"
FILES = r"/(?:(?P<type>dataset|space)s/)?(?P<id>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"


class Api(Plumbing):
    # Repos

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> Answer:
        if (account := self.account()) is None:
            raise RefusalError(401, "Invalid username or password.")
        name, orgs = account
        role = {"accessToken": {"role": "write", "displayName": "test"}}
        return Answer(body={"type": "user", "name": name, "orgs": [{"name": org} for org in orgs], "auth": role})

    @route("POST", "/api/repos/create")
    def create(self) -> Answer:
        asked, account = self.json(), self.account()
        type_ = asked.get("type", "model")
        id_ = f"{asked.get('organization') or (account[0] if account else '')}/{asked['name']}"
        self.check_write(account, id_)
        url = f"{self.hub.url}/{'' if type_ == 'model' else type_ + 's/'}{id_}"
        with self.hub.store.lock:
            if (type_, id_) in self.hub.store.repos:
                return Answer(409, {"error": "You already created this repo", "url": url})
            self.hub.store.create(type_, id_, asked.get("visibility") == "private" or bool(asked.get("private")))
        return Answer(body={"url": url, "name": id_})

    @route("DELETE", "/api/repos/delete")
    def delete(self) -> Answer:
        asked, account = self.json(), self.account()
        id_ = f"{asked.get('organization') or (account[0] if account else '')}/{asked['name']}"
        self.hub.store.delete(self.writable(asked.get("type", "model"), id_))
        return Answer(body={})

    @route("PUT", f"{REPO}/settings")
    def settings(self, type: str, id: str) -> Answer:
        repo, asked = self.writable(type, id), self.json()
        repo.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        self.hub.store.save(repo)
        return Answer(body={"private": repo.private})

    @route("GET", f"{REPO}(?:/revision/{REVISION})?")
    def info(self, type: str, id: str, revision: str = "main") -> Answer:
        repo = self.readable(type, id)
        sha = self.at(repo, revision)
        commit = repo.commits[sha]
        about = {
            "_id": sha[:24],
            "id": repo.id,
            "author": repo.id.split("/")[0],
            "sha": sha,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": date(commit.date),
            "createdAt": date(repo.history("main")[-1][1].date),
            "siblings": [
                {"rfilename": path, **({"size": file.size, "blobId": file.oid} if "blobs" in self.come.query else {})}
                for path, file in sorted(commit.files.items())
            ],
        }
        return Answer(body=about)

    @route("GET", f"{REPO}/refs")
    def refs(self, type: str, id: str) -> Answer:
        repo = self.readable(type, id)

        def named(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]

        return Answer(
            body={"branches": named("heads", repo.branches), "tags": named("tags", repo.tags), "converts": []}
        )

    @route("POST DELETE", f"{REPO}/(?P<kind>branch|tag)/{REVISION}")
    def ref(self, type: str, id: str, kind: str, revision: str) -> Answer:
        repo, asked = self.writable(type, id), self.json()
        refs = repo.branches if kind == "branch" else repo.tags
        # A tag is made as POST /tag/{what it marks} with its name in the body, and deleted by its name in the path.
        name = asked.get("tag", revision) if kind == "tag" else revision
        start = asked.get("startingPoint", "main") if kind == "branch" else revision
        with self.hub.store.lock:
            if self.command == "DELETE":
                if refs.pop(name, None) is None:
                    raise RefusalError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            elif name in refs:
                raise RefusalError(409, f"Reference already exists: {name}")
            else:
                refs[name] = self.at(repo, start)
            self.hub.store.save(repo)
        return Answer(body={})

    @route("GET", f"{REPO}/commits/{REVISION}")
    def commits(self, type: str, id: str, revision: str) -> Answer:
        repo = self.readable(type, id)
        self.at(repo, revision)
        author = [{"user": repo.id.split("/")[0]}]
        return Answer(
            body=[
                {
                    "id": sha,
                    "title": one.summary,
                    "message": one.description,
                    "date": date(one.date),
                    "authors": author,
                }
                for sha, one in repo.history(revision)
            ]
        )

    # Listing and reading files

    @route("GET", f"{REPO}/tree/{REVISION}(?:/(?P<path>.+))?")
    def tree(self, type: str, id: str, revision: str, path: str = "") -> Answer:
        repo = self.readable(type, id)
        sha, query = self.at(repo, revision), self.come.query
        rows = listed(repo, sha, path, _flag(query, "recursive"), _flag(query, "expand"))
        if path and not rows:
            raise RefusalError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        first = int(query.get("cursor", ["0"])[0])
        size = min(int(query.get("limit", [str(self.hub.page_size)])[0]), self.hub.page_size)
        headers = {}
        if first + size < len(rows):
            kept = "".join(f"{key}={quote(value[0])}&" for key, value in query.items() if key != "cursor")
            headers["Link"] = f'<{self.hub.url}{self.come.path}?{kept}cursor={first + size}>; rel="next"'
        return Answer(body=rows[first : first + size], headers=headers)

    @route("POST", f"{REPO}/paths-info/{REVISION}")
    def paths_info(self, type: str, id: str, revision: str) -> Answer:
        repo, body = self.readable(type, id), self.body()
        if "json" in self.come.headers.get("content-type", ""):
            asked = json.loads(body)
            paths, expand = asked["paths"], bool(asked.get("expand"))
        else:
            form = parse_qs(body.decode())
            paths, expand = form.get("paths", []), _flag(form, "expand")
        wanted = {path.strip("/") for path in paths}
        rows = listed(repo, self.at(repo, revision), "", True, expand)
        return Answer(body=[row for row in rows if row["path"] in wanted])

    @route("GET HEAD", f"{FILES}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, type: str, id: str, revision: str, path: str) -> Answer:
        repo = self.readable(type, id)
        sha = self.at(repo, revision)
        file = repo.commits[sha].files.get(path)
        headers = {"X-Repo-Commit": sha}
        if file is None:
            raise RefusalError(404, f"{path}: Entry not found", "EntryNotFound", **headers)
        headers |= {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if self.command == "HEAD":
            return Answer(headers=headers | {"Content-Length": str(file.size)})
        return self.part_of(self.hub.store.blob(file.sha256), file.size, headers)

    def part_of(self, path: Path, size: int, headers: dict[str, str]) -> Answer:
        """A file, or the range of it that was asked for."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.come.headers.get("range", ""))
        if not asked:
            return Answer(body=path.read_bytes(), headers=headers)
        if asked[1]:
            start, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
        else:
            start, stop = max(size - int(asked[2]), 0), size
        if start >= stop:
            return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        return Answer(206, body, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})

    # Writing files

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> Answer:
        self.body()
        return Answer(body={"errors": [], "warnings": []})

    @route("POST", f"{REPO}/preupload/{REVISION}")
    def preupload(self, type: str, id: str, revision: str) -> Answer:
        repo, asked = self.writable(type, id), self.json()
        there = repo.commits[self.at(repo, revision)].files
        answers = []
        for file in asked["files"]:
            path = file["path"]
            mode = "lfs" if takes_lfs(path, file["size"]) else "regular"
            known = {"oid": there[path].etag} if path in there else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return Answer(body={"files": answers})

    @route("POST", rf"{FILES}\.git/info/lfs/objects/batch")
    def lfs_batch(self, type: str, id: str) -> Answer:
        self.writable(type, id)
        objects = []
        for one in self.json()["objects"]:
            oid, size = one["oid"], one["size"]
            actions = {}
            if not self.hub.store.has(oid):
                upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/{oid}"}
                if size > self.hub.part_bytes:
                    parts = range(1, -(-size // self.hub.part_bytes) + 1)
                    urls = {str(part): f"{self.hub.url}/lfs/{oid}/{part}" for part in parts}
                    upload = {
                        "href": f"{self.hub.url}/lfs/{oid}/complete",
                        "header": {"chunk_size": str(self.hub.part_bytes), **urls},
                    }
                actions = {"actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}}
            objects.append({"oid": oid, "size": size, **actions})
        return Answer(body={"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>[0-9]+))?")
    def lfs_put(self, oid: str, part: str = "") -> Answer:
        """The addresses are signed on the Hub: no token comes with the blob."""
        name = f"{oid}.{part}" if part else oid
        sha256 = self.hub.store.receive(name, self.pieces())
        if not part and sha256 != oid:
            self.hub.store.blob(name).unlink()
            raise RefusalError(400, "the content has another SHA-256")
        return Answer(headers={"ETag": f'"{sha256}"'})

    @route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/complete")
    def lfs_complete(self, oid: str) -> Answer:
        parts = self.json()["parts"]
        self.hub.store.join(oid, [f"{oid}.{part['partNumber']}" for part in parts])
        return Answer(body={})

    @route("POST", "/lfs/verify")
    def lfs_verify(self) -> Answer:
        asked = self.json()
        path = self.hub.store.blob(asked["oid"])
        if not path.is_file() or path.stat().st_size != asked["size"]:
            raise RefusalError(400, "the object is not there, or of another size")
        return Answer(body={})

    @route("POST", f"{REPO}/commit/{REVISION}")
    def commit(self, type: str, id: str, revision: str) -> Answer:
        repo = self.writable(type, id)
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.hub.store.lock:
            if revision not in repo.branches:
                raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if header.get("parentCommit") not in (None, repo.branches[revision]):
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.files(revision))
            for line in lines:
                self.apply(files, line["key"], line["value"])
            sha = self.hub.store.commit(repo, revision, files, header["summary"], header.get("description", ""))
        return Answer(body={"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}"})

    def apply(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        """One line of a commit."""
        path = value.get("path", "")
        if key == "file":
            try:
                content = base64.b64decode(value["content"], validate=True)
            except binascii.Error:
                raise RefusalError(400, f"{path}: not base64") from None
            self.hub.store.put(content)
            files[path] = File.of(content)
        elif key == "lfsFile":
            if not self.hub.store.has(value["oid"]):
                raise RefusalError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = File.pointer(value["oid"], value["size"])
        elif key == "deletedFile":
            files.pop(path, None)
        elif key == "deletedFolder":
            for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[inside]


def _flag(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, ["false"])[0].lower() in ("true", "1")
