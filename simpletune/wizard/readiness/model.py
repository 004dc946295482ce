"""The model and where it comes from: built in, a folder, a file, or the hub with its licence and token; and the
package index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from simpletune.machine.hub_access import ACCEPTED, NEEDED, is_cached
from simpletune.machine.model_folder import lacking_parts
from simpletune.machine.package_index import check_index
from simpletune.wizard.readiness.check import FAILED, OK, SKIPPED, WARNING, Check
from simpletune.wizard.readiness.subject import Subject


def model_checks(subject: Subject) -> Iterator[Check]:
    yield _model(subject)
    if subject.online:
        index = check_index()
        status = OK if index.reachable else WARNING
        yield Check("package index", status, index.message, index.next_step)
    else:
        yield Check("package index", SKIPPED, "not asked (--offline)")


def _model(subject: Subject) -> Check:
    if subject.model_path is not None:
        return _local(subject, subject.model_path)
    if subject.repo_id is None:
        return Check("model", OK, f"{subject.flavour.name}, which is built in")
    if subject.access is None:
        return _unasked(subject, subject.repo_id)
    access = subject.access
    said = "" if access.licence in (ACCEPTED, NEEDED) else f" ({'logged in' if access.has_token else 'not logged in'})"
    if access.available:
        return Check("model", OK, f"{access.repo_id}: {access.message}" if access.cached else access.message + said)
    # Without files nobody has said yet that the model is to come from the hub.
    return Check("model", FAILED if subject.settings else WARNING, access.message + said, access.next_step)


def _unasked(subject: Subject, repo_id: str) -> Check:
    settings = subject.settings
    cached = is_cached(repo_id, settings.revision if settings else None, settings.use_t5 if settings else True)
    if cached:
        return Check("model", OK, f"{repo_id}: all its files are on this machine")
    return Check("model", SKIPPED, f"{repo_id} isn't on this machine, and the hub isn't asked (--offline)")


def _local(subject: Subject, path: Path) -> Check:
    if path.is_file():
        return Check("model", OK, f"the file {path}")
    settings = subject.settings
    use_t5 = settings.use_t5 if settings else True
    lacking = lacking_parts(path, use_t5)
    if settings is not None and settings.pretrained_text_encoders_path is not None:
        elsewhere = set(lacking_parts(settings.pretrained_text_encoders_path, use_t5))
        lacking = [part for part in lacking if part in elsewhere or not part.startswith(("text_", "tokenizer"))]
    if lacking:
        step = 'complete it, or name another one in "pretrained_model_name_or_path"'
        if lacking == ["tokenizer_3", "text_encoder_3"]:
            step = f'{step}; without T5, set "use_t5" to false'
        return Check("model", FAILED, f"the folder {path} lacks {', '.join(lacking)}", step)
    return Check("model", OK, f"the folder {path}")
