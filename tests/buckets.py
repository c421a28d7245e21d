"""Buckets of the emulated clouds: each call makes one, empty, and tells how to reach it."""

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import boto3
import obstore
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from servers import Server
from swell.core.clock import Clock, SystemClock
from swell.objects.bucket import BucketObjects
from swell.settings.storage_settings import ObjectsSettings

__all__ = ["SECRET", "Bucket", "azure_container", "gcs_bucket", "s3_bucket"]

SECRET: Final = bytes(range(32))

#: Of Azurite and of every other emulator of Azure Storage; no secret.
_AZURE_ACCOUNT: Final = "devstoreaccount1"
_AZURE_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """An empty bucket."""

    url: str
    access: ObjectsSettings

    def objects(self, clock: Clock) -> BucketObjects:
        """Return Swell's way to it."""
        return BucketObjects(self.url, self.access, clock, SECRET)

    def names(self) -> list[str]:
        """Return the keys of all objects in it, as the cloud itself lists them."""
        objects = BucketObjects(self.url, self.access, SystemClock(), SECRET)
        return sorted(each["path"] for each in obstore.list(objects._bucket).collect())


def s3_bucket(server: Server) -> Bucket:
    """Make a bucket on moto."""
    name = f"bucket-{secrets.token_hex(6)}"
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=name)
    client.close()
    access = ObjectsSettings(
        endpoint=server.url, region="us-east-1", key_id="id", secret=SecretStr("secret")
    )
    return Bucket(f"s3://{name}/some/prefix", access)


def gcs_bucket(server: Server) -> Bucket:
    """Make a bucket on the emulator of Google Cloud Storage."""
    name = f"bucket-{secrets.token_hex(6)}"
    request = urllib.request.Request(
        f"{server.url}/storage/v1/b?project=test",
        data=json.dumps({"name": name}).encode(),
        headers={"content-type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    access = ObjectsSettings(endpoint=server.url, secret=SecretStr(service_account()))
    return Bucket(f"gs://{name}/some/prefix", access)


def azure_container(server: Server) -> Bucket:
    """Make a container on Azurite."""
    name = f"container-{secrets.token_hex(6)}"
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    told = "\n".join(f"{key}:{value}" for key, value in headers.items())
    resource = f"/{_AZURE_ACCOUNT}/{_AZURE_ACCOUNT}/{name}\nrestype:container"
    message = "PUT" + "\n" * 12 + f"{told}\n{resource}"
    digest = hmac.new(base64.b64decode(_AZURE_KEY), message.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {_AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.request("PUT", f"/{_AZURE_ACCOUNT}/{name}?restype=container", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()
    access = ObjectsSettings(endpoint=server.url, secret=SecretStr(_AZURE_KEY))
    return Bucket(f"az://{_AZURE_ACCOUNT}/{name}/some/prefix", access)


@cache
def service_account() -> str:
    """Return the JSON of a service account that nobody knows, with a key made now."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "type": "service_account",
            "private_key": pem.decode(),
            "private_key_id": "1",
            "client_email": "swell@example.iam.gserviceaccount.com",
        }
    )
