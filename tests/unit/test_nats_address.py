"""Addresses of NATS are read whole, and refused without telling what is secret."""

import pytest

from swell.core.errors import InvalidRequest
from swell.net.nats_address import NatsAddress


def test_a_plain_address_has_a_stream_of_its_own_name() -> None:
    address = NatsAddress.read("nats://127.0.0.1:4222")
    assert (address.servers, address.stream) == (("nats://127.0.0.1:4222",), "swell")
    assert address.options == {}


def test_the_servers_of_a_cluster_share_a_user() -> None:
    address = NatsAddress.read("nats://ann:p%40ss@a:1,b:2/work")
    assert address.servers == ("nats://a:1", "nats://b:2")
    assert address.options == {"user": "ann", "password": "p@ss"}
    assert address.place == "a:1,b:2"


def test_a_name_without_a_password_is_a_token() -> None:
    assert NatsAddress.read("nats://secret@a:1").options == {"token": "secret"}


def test_tls_insists_on_certificates_that_are_trusted() -> None:
    context = NatsAddress.read("tls://a:1").options["tls"]
    assert context.check_hostname


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:hidden@a:1",
        "nats://ann:hidden@",
        "nats://ann:hidden@a:1,/x",
        "nats://ann:hidden@a:1/two/parts",
        "nats://ann:hidden@a:1?user=x",
        "nats://ann:hidden@a:1?cert=x",
        "nats://ann:x#hidden@a:1",
        "nats://ann:hidden#x@a:1",
        "nats://ann:x/hidden@a:1/x",
        "nats://ann:hidden/x@a:1/x",
        "nats://ann:x?hidden@a:1/x",
        "nats://ann:x[hidden@a:1/x",
        "nats://ann:hidden@a:1/\u00e9t\u00e9",
        "nats://ann:hidden@a:1?replicas=0",
        "nats://ann:hidden@a:port",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        NatsAddress.read(url)
    assert "hidden" not in refused.value.detail


@pytest.mark.parametrize("option", ["ca", "creds"])
def test_a_file_that_is_not_there_is_refused(option: str) -> None:
    with pytest.raises(InvalidRequest):
        NatsAddress.read(f"nats://a:1?{option}=/nowhere")


def test_a_password_may_hold_anything_that_is_escaped() -> None:
    address = NatsAddress.read("nats://u:p%40ss%2Fw%25rd%231@a:1/x")
    assert address.options == {"user": "u", "password": "p@ss/w%rd#1"}


def test_a_stream_is_kept_by_as_many_servers_as_are_named() -> None:
    assert NatsAddress.read("nats://a:1").replicas == 1
    assert NatsAddress.read("nats://a:1,b:1,c:1/x?replicas=3").replicas == 3
