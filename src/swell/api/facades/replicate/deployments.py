"""Deployments: names of an operator's own for a model, or for one version of it.

Every served model is a deployment of its own name. Further ones are kept in the registry; to point
one at another version rolls that out to all who ask the deployment. How many workers there are is
not theirs to say: pools are sized in the settings, and a wish that the pool does not meet is
refused with what it has.
"""

from datetime import datetime
from typing import Any, Final, cast

import msgspec

from swell.api.call import Call, Reply
from swell.api.cards import is_plain_word
from swell.api.facades.replicate.messages import (
    HOME,
    ReplicateAccount,
    ReplicateConfiguration,
    ReplicateDeployment,
    ReplicateDeploymentList,
    ReplicateDeploymentRequest,
    ReplicateDeploymentUpdate,
    ReplicateRelease,
)
from swell.api.facades.replicate.views import moment
from swell.api.reading import Reader
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import Conflict, FieldError, InvalidInput, NotFound, Unavailable

_request = Reader(ReplicateDeploymentRequest)
_update = Reader(ReplicateDeploymentUpdate)

#: Under which name the registry keeps them.
_NOTE: Final = "replicate.deployments"

#: More would make each change slow.
_MOST: Final = 1000

_TRIES: Final = 20


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for a model."""

    owner: str
    name: str
    model: str
    #: None for whatever version a request without one gets.
    version: str | None = None
    #: The pool that it was made with; None for any.
    pool: str | None = None
    #: Counts its changes, from 1.
    number: int = 1
    changed_at: datetime
    #: Name of the key that made the last change.
    changed_by: str = ""

    @property
    def full_name(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def ref(self) -> str:
        """What stands behind it, as requests name a model."""
        return self.model if self.version is None else f"{self.model}:{self.version}"


class _Pool(msgspec.Struct, frozen=True):
    """How many workers a pool has at least and at most."""

    name: str
    least: int
    most: int


_decode = msgspec.json.Decoder(list[Deployment]).decode


async def find_deployment(service: Service, name: str) -> Deployment:
    """Return the deployment of this name, or that which each model is.

    Raises:
        NotFound: There is none.
    """
    for each in await _kept(service):
        if each.full_name == name:
            return each
    try:
        card = (await service.cards.target(name)).card
    except NotFound as error:
        raise NotFound(
            f"there is no deployment {name[:120]!r}: GET {HOME}/deployments lists "
            "them; every served model is a deployment of the same name"
        ) from error
    return _of_model(service, card.name, card.registered_at)


async def list_deployments(service: Service, call: Call) -> Reply:
    """`GET /deployments`."""
    await service.cards.refresh()
    kept = await _kept(service)
    taken = {each.full_name for each in kept}
    served = [
        _of_model(service, card.name, card.registered_at)
        for card in service.cards.newest()
        if card.name not in taken
    ]
    found = [await _view(service, each) for each in [*kept, *served]]
    return Reply(200, encode(ReplicateDeploymentList(results=found)))


async def get(service: Service, call: Call) -> Reply:
    """`GET /deployments/{owner}/{name}`."""
    return Reply(200, encode(await _view(service, await find_deployment(service, _name(call)))))


async def create(service: Service, call: Call) -> Reply:
    """`POST /deployments`."""
    asked: ReplicateDeploymentRequest = await _request.read_call(
        call, service.settings.server.max_body_bytes
    )
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

    def added(kept: list[Deployment]) -> list[Deployment]:
        if any(each.full_name == made.full_name for each in kept):
            raise Conflict(f"there is a deployment {made.full_name} already: PATCH or DELETE it")
        if len(kept) >= _MOST:
            raise Conflict(f"there are {_MOST:,} deployments, and no more can be kept: delete some")
        return [*kept, made]

    await _change(service, added)
    return Reply(201, encode(await _view(service, made)))


async def update(service: Service, call: Call) -> Reply:
    """`PATCH /deployments/{owner}/{name}`."""
    asked: ReplicateDeploymentUpdate = await _update.read_call(
        call, service.settings.server.max_body_bytes
    )
    name = call.target = _name(call)
    before = await _own(service, name)
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

    def changed(kept: list[Deployment]) -> list[Deployment]:
        if before not in kept:
            raise Conflict(f"deployment {name} was changed at the same moment: try again")
        return [after if each == before else each for each in kept]

    await _change(service, changed)
    return Reply(200, encode(await _view(service, after)))


async def delete(service: Service, call: Call) -> Reply:
    """`DELETE /deployments/{owner}/{name}`."""
    name = call.target = _name(call)
    await _own(service, name)
    await _change(service, lambda kept: [each for each in kept if each.full_name != name])
    return Reply(204)


async def _own(service: Service, name: str) -> Deployment:
    """Return one that an operator has made.

    Raises:
        Conflict: It is the model itself.
    """
    found = await find_deployment(service, name)
    if found.changed_by == "":
        raise Conflict(
            f"{name} is the model itself, which is a deployment as long as it is served: make one "
            "of another name to change it"
        )
    return found


async def _kept(service: Service) -> list[Deployment]:
    note = await service.registry.note(_NOTE)
    return [] if note is None else _decode(note)


async def _change(service: Service, change: Any) -> None:
    for _ in range(_TRIES):
        note = await service.registry.note(_NOTE)
        kept = [] if note is None else _decode(note)
        if await service.registry.swap_note(_NOTE, note, encode(change(kept))):
            return
    raise Unavailable("the deployments are being changed by others: try again")


def _name(call: Call) -> str:
    return f"{call.params['owner']}/{call.params['name']}"


def _owner(call: Call) -> str:
    """Return whose deployments a key makes: its name, in letters that paths may have."""
    name = "".join(each if each.isalnum() and each.isascii() else "-" for each in call.caller.name)
    name = name.strip("-").lower()[:100]
    return name if name and is_plain_word(name) else call.caller.id


def _of_model(service: Service, model: str, registered_at: datetime | None) -> Deployment:
    owner, _, name = model.partition("/")
    changed_at = registered_at or service.clock.now()
    return Deployment(owner=owner, name=name, model=model, changed_at=changed_at)


async def _view(service: Service, deployment: Deployment) -> ReplicateDeployment:
    version = deployment.version
    if version is None:
        try:
            version = (await service.cards.target(deployment.model)).card.version
        except NotFound:
            version = "hidden"
    pool = await _pool(service, deployment.model, deployment.pool)
    by = deployment.changed_by or "swell"
    return ReplicateDeployment(
        owner=deployment.owner,
        name=deployment.name,
        current_release=ReplicateRelease(
            number=deployment.number,
            model=deployment.model,
            version=version,
            created_at=cast("str", moment(deployment.changed_at)),
            created_by=ReplicateAccount(type="organization", username=by, name=by),
            configuration=ReplicateConfiguration(
                hardware=pool.name, min_instances=pool.least, max_instances=pool.most
            ),
        ),
    )


async def _pool(service: Service, model: str, name: str | None) -> _Pool:
    """Return the pool whose workers have a model; of several that of this name, or the largest."""
    found: dict[str, _Pool] = {}
    for worker in service.fleet.live(model, None):
        pool = worker.info.pool
        n = 1 if pool not in found else found[pool].least + 1
        found[pool] = _Pool(pool, n, n)
    status = service.scaling.status
    for each in () if status is None else status.pools:
        if not each.models or model in each.models:
            found[each.pool] = _Pool(each.pool, each.least, each.most)
    if name is not None:
        return found.get(name, _Pool(name, 0, 0))
    return max(found.values(), key=lambda pool: (pool.most, pool.name), default=_Pool("", 0, 0))


async def _check_instances(
    service: Service, model: str, asked: ReplicateDeploymentRequest | ReplicateDeploymentUpdate
) -> None:
    """Check that the pool has as many workers as are wished for.

    Raises:
        InvalidInput: It has fewer, or may have more; or it does not have the model.
    """
    pool = await _pool(service, model, asked.hardware)
    if asked.hardware is not None and pool.most == 0:
        _refuse(
            "hardware",
            f"no worker of the pool {asked.hardware[:60]!r} has {model}: GET "
            f"{HOME}/hardware lists the pools; leave it out for any",
        )
    sized = f"the pool {pool.name!r} has {pool.least} to {pool.most} workers, as [pools] in the "
    sized += "settings says, which a deployment cannot change"
    if asked.min_instances is not None and asked.min_instances > pool.least:
        _refuse("min_instances", f"{sized}: ask for at most {pool.least}")
    if asked.max_instances is not None and asked.max_instances < pool.most:
        _refuse("max_instances", f"{sized}: ask for at least {pool.most}")


def _refuse(field: str, detail: str) -> None:
    where = FieldError(pointer=f"/{field}", detail=detail, code="not_possible")
    raise InvalidInput(f"/{field}: {detail}", errors=[where])
