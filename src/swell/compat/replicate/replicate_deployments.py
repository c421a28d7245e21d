"""Deployments: an operator's names for a model, or for one version of it.

Every served model is a deployment of the same name. Others are kept in the registry; moving one to
another version changes it for all its users. Pools are sized in the settings, so a wish that the
pool does not meet is refused.
"""

from collections import Counter
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from swell.compat.replicate.replicate_facade import HOME, ReplicatePage, full_name, replicate
from swell.compat.replicate.replicate_models import ReplicateAccount
from swell.compat.replicate.replicate_views import HIDDEN_VERSION
from swell.core.clock import Moment
from swell.core.errors import Conflict, InvalidInput, InvalidRequest, NotFound
from swell.core.records import ModelCard, Scope
from swell.server.common_schemas import doc
from swell.server.decoding import read_body
from swell.server.models.model_cards import is_plain_word
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import Body, Response
from swell.server.serializers import encode, project
from swell.server.service import Service


class ReplicateDeploymentUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of a deployment."""

    version: Annotated[str | None, doc("a version's id")] = None
    hardware: Annotated[str | None, doc("a pool, as `GET /hardware` lists them")] = None
    min_instances: Annotated[int, Meta(ge=0)] | None = None
    max_instances: Annotated[int, Meta(ge=0)] | None = None


class ReplicateDeploymentRequest(ReplicateDeploymentUpdate, frozen=True, kw_only=True):
    """A name for a model or a version of it."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
    model: Annotated[str, doc("`owner/name`")]


class ReplicateConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deployment runs."""

    hardware: str
    min_instances: int
    max_instances: int


class ReplicateRelease(msgspec.Struct, frozen=True, kw_only=True):
    """Current model and version of a deployment."""

    number: int
    model: str
    version: str
    created_at: Moment
    created_by: ReplicateAccount
    configuration: ReplicateConfiguration


class ReplicateDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment."""

    owner: str
    name: str
    current_release: ReplicateRelease


#: Name of the note in the registry that holds them.
_NOTE: Final = "replicate.deployments"


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for a model."""

    owner: str
    name: str
    model: str
    #: None for the version that a request without one gets.
    version: str | None = None
    #: Pool of its creation; None for any.
    pool: str | None = None
    #: Number of the release, from 1.
    number: int = 1
    changed_at: datetime
    #: Name of the key that made the last change; empty for a model itself.
    changed_by: str = ""

    @property
    def full_name(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def ref(self) -> str:
        """The model, as requests name it."""
        return self.model if self.version is None else f"{self.model}:{self.version}"


async def find_deployment(service: Service, name: str) -> Deployment:
    """Return the deployment, or the model, of a name.

    Raises:
        NotFound: There is none.
    """
    for each in _decoded(await service.registry.note(_NOTE)):
        if each.full_name == name:
            return each
    try:
        return _of_model(service, (await service.cards.target(name)).card)
    except NotFound as error:
        detail = f"there is no deployment {name[:120]!r}: GET {HOME}/deployments lists them"
        raise NotFound(detail) from error


@replicate("GET /deployments", ReplicatePage[ReplicateDeployment])
async def list_deployments(service: Service, call: Call) -> Reply:
    """Deployments, including one for each model."""
    await service.cards.refresh()
    stored = _decoded(await service.registry.note(_NOTE))
    names = {each.full_name for each in stored}
    models = [_of_model(service, card) for card in service.cards.newest() if card.name not in names]
    found = [await _view(service, each) for each in [*stored, *models]]
    return Reply(200, encode(ReplicatePage(results=found)))


@replicate(
    "POST /deployments",
    {201: Response("The deployment", ReplicateDeployment)},
    (InvalidRequest, InvalidInput, NotFound, Conflict),
    scope=Scope.ADMIN,
    body=Body(
        ReplicateDeploymentRequest,
        example={"name": "large", "model": "demo/upper", "min_instances": 0},
    ),
    audit="deployments.create",
)
async def create(service: Service, call: Call) -> Reply:
    """Create a deployment."""
    asked = await read_body(service, call, ReplicateDeploymentRequest)
    ref = asked.model if asked.version is None else f"{asked.model}:{asked.version}"
    card = (await service.cards.target(ref)).card
    await _check_instances(service, card.name, asked)
    made = Deployment(
        owner=_owner(call),
        name=asked.name,
        model=card.name,
        version=None if asked.version is None else card.version,
        pool=asked.hardware,
        changed_at=service.clock.now(),
        changed_by=call.caller.name,
    )
    call.target = made.full_name
    await _replace(service, None, made)
    return Reply(201, encode(await _view(service, made)))


@replicate("GET /deployments/{owner}/{name}", ReplicateDeployment, (NotFound,))
async def get(service: Service, call: Call) -> Reply:
    """A deployment."""
    deployment = await find_deployment(service, full_name(call))
    return Reply(200, encode(await _view(service, deployment)))


@replicate(
    "PATCH /deployments/{owner}/{name}",
    ReplicateDeployment,
    (InvalidRequest, InvalidInput, NotFound, Conflict),
    scope=Scope.ADMIN,
    body=Body(ReplicateDeploymentUpdate, example={"version": "1"}),
    audit="deployments.update",
)
async def update(service: Service, call: Call) -> Reply:
    """Update a deployment."""
    asked = await read_body(service, call, ReplicateDeploymentUpdate)
    before = await _changeable(service, call)
    if asked.version is not None:
        await service.cards.target(f"{before.model}:{asked.version}")
    await _check_instances(service, before.model, asked)
    after = msgspec.structs.replace(
        before,
        version=asked.version or before.version,
        pool=asked.hardware or before.pool,
        number=before.number + 1,
        changed_at=service.clock.now(),
        changed_by=call.caller.name,
    )
    await _replace(service, before, after)
    return Reply(200, encode(await _view(service, after)))


@replicate(
    "DELETE /deployments/{owner}/{name}",
    {204: Response("The deployment is deleted", media_type="")},
    (NotFound, Conflict),
    scope=Scope.ADMIN,
    audit="deployments.delete",
)
async def delete(service: Service, call: Call) -> Reply:
    """Delete a deployment."""
    await _replace(service, await _changeable(service, call), None)
    return Reply(204)


async def _changeable(service: Service, call: Call) -> Deployment:
    name = call.target = full_name(call)
    found = await find_deployment(service, name)
    if found.changed_by == "":
        raise Conflict(f"{name} is the model itself: create a deployment of another name")
    return found


def _decoded(note: bytes | None) -> list[Deployment]:
    return [] if note is None else msgspec.json.decode(note, type=list[Deployment])


async def _replace(service: Service, before: Deployment | None, after: Deployment | None) -> None:
    """Store a deployment in place of another; None for a new or a deleted one."""

    def change(note: bytes | None) -> bytes:
        stored = _decoded(note)
        if before is not None and before not in stored:
            raise Conflict(f"deployment {before.full_name} was changed just now: try again")
        kept = [each for each in stored if each != before]
        if after is not None:
            if any(each.full_name == after.full_name for each in kept):
                detail = f"there is a deployment {after.full_name} already: PATCH or DELETE it"
                raise Conflict(detail)
            kept.append(after)
        return encode(kept)

    await service.registry.change_note(_NOTE, change)


async def current_version(service: Service, model: str) -> str:
    """Return the version that a request for a model gets now."""
    try:
        return (await service.cards.target(model)).card.version
    except NotFound:
        return HIDDEN_VERSION


def _owner(call: Call) -> str:
    """Return the owner of a key's deployments: its name, in characters of paths."""
    name = "".join(each if each.isalnum() and each.isascii() else "-" for each in call.caller.name)
    name = name.strip("-").lower()[:100]
    return name if name and is_plain_word(name) else call.caller.id


def _of_model(service: Service, card: ModelCard) -> Deployment:
    owner, _, name = card.name.partition("/")
    changed_at = card.registered_at or service.clock.now()
    return Deployment(owner=owner, name=name, model=card.name, changed_at=changed_at)


async def _view(service: Service, deployment: Deployment) -> ReplicateDeployment:
    by = deployment.changed_by or "swell"
    release = project(
        ReplicateRelease,
        deployment,
        version=deployment.version or await current_version(service, deployment.model),
        created_at=deployment.changed_at,
        created_by=ReplicateAccount(type="organization", username=by, name=by),
        configuration=_pool(service, deployment.model, deployment.pool),
    )
    return project(ReplicateDeployment, deployment, current_release=release)


def _pool(service: Service, model: str, name: str | None) -> ReplicateConfiguration:
    """Return a pool with workers for a model: the one of this name, or the largest."""
    workers = Counter(worker.info.pool for worker in service.fleet.live(model, None))
    sizes = {pool: (count, count) for pool, count in workers.items()}
    status = service.scaling.status
    for each in () if status is None else status.pools:
        if not each.models or model in each.models:
            sizes[each.pool] = each.least, each.most
    if name is None:
        name = max(sizes, key=lambda pool: (sizes[pool][1], pool), default="")
    least, most = sizes.get(name, (0, 0))
    return ReplicateConfiguration(hardware=name, min_instances=least, max_instances=most)


async def _check_instances(service: Service, model: str, asked: ReplicateDeploymentUpdate) -> None:
    """Check that the pool has the wished number of workers.

    Raises:
        InvalidInput: It has fewer, may have more, or has no worker for the model.
    """
    pool = _pool(service, model, asked.hardware)
    least, most = pool.min_instances, pool.max_instances
    if asked.hardware is not None and most == 0:
        detail = f"no worker of the pool {asked.hardware[:60]!r} has {model}: leave it out for any"
        raise field_error("/hardware", detail, "not_possible")
    limits = (
        f"the pool {pool.hardware!r} has {least} to {most} workers, as [pools] in the settings "
        "says, which a deployment cannot change"
    )
    if asked.min_instances is not None and asked.min_instances > least:
        raise field_error("/min_instances", f"{limits}: ask for at most {least}", "not_possible")
    if asked.max_instances is not None and asked.max_instances < most:
        raise field_error("/max_instances", f"{limits}: ask for at least {most}", "not_possible")
