"""Settings of what keeps data: the database, queues, the bus, files and weights."""

from typing import Literal

from pydantic import Field, SecretStr

from swell.settings.group import Group


class StoreSettings(Group):
    """Where tasks are kept.

    Attributes:
        url: `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, shared by any
            number of backends. Empty for `swell.db` in the data folder.
        connections: With PostgreSQL: read connections of each backend. One more writes, plus one
            for a bus on PostgreSQL.
    """

    url: str = ""
    connections: int = Field(default=4, ge=1)


class BrokerSettings(Group):
    """Where workers inside the trusted network receive the IDs of ready tasks.

    Attributes:
        url: `nats://HOST:PORT/STREAM` (NATS JetStream; default stream `swell`; credentials as
            `nats://USER:PASSWORD@…`, `nats://TOKEN@…` or `?creds=FILE`; `tls://…` requires TLS,
            with `?ca=FILE` and for a client certificate `&cert=FILE&key=FILE`; a cluster lists its
            servers separated by commas, and `?replicas=3` sets the replicas of a new stream) or
            `sqs://REGION/PREFIX` (Amazon SQS; queues named `PREFIX-…`; `?endpoint=URL` for another
            server). Set it only if workers poll that service (`swell worker --broker`). Empty: all
            workers lease from the backend.
        repair_s: How often one backend compares the external queues with the store, in seconds.
            Ready tasks without a message are sent again after two comparisons.
    """

    url: str = ""
    repair_s: float = Field(default=10.0, gt=0)


class BusSettings(Group):
    """What several backends tell each other.

    Attributes:
        url: `nats://HOST:PORT` (a path names the installation if several share the server) or
            `postgresql://USER@HOST/DATABASE`. Empty for the database of `store.url` if that is
            PostgreSQL, otherwise for no bus: a single backend needs none.
    """

    url: str = ""


class BucketSettings(Group):
    """A folder or a bucket, and how to open it."""

    url: str = ""
    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: SecretStr = SecretStr("")


class ObjectsSettings(BucketSettings):
    """Where files are kept.

    Attributes:
        url: `file:PATH`, `memory:` (lost at exit), `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
            `az://ACCOUNT/CONTAINER/PREFIX`; empty for `objects` in the data folder.
        serve: How clients download files from a bucket. `through`: the backend streams them under
            its own URL. `redirect`: the backend redirects to a signed URL of the bucket, which
            refuses clients that forward their API key.
        endpoint: URL of the bucket's service, such as `https://minio.example:9000`; empty for the
            cloud's default.
        region: Region of the Amazon S3 bucket; empty for `AWS_REGION`.
        key_id: Access key id for Amazon S3; empty for the cloud's usual variables, files or
            instance role.
        secret: Credential of the bucket: the secret access key of Amazon S3, the account key of
            Azure, or the JSON of a Google service account key; empty as for `objects.key_id`.
    """

    serve: Literal["through", "redirect"] = "through"


class WeightsSettings(BucketSettings):
    """Where pushed weights are kept, apart from images and machines.

    Attributes:
        url: `file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
            `az://ACCOUNT/CONTAINER/PREFIX`. Backend: empty for `weights` among its files; a folder
            must be visible to every backend, which serves it. Worker: empty to download from the
            backend with the worker's token.
        endpoint: As `objects.endpoint`.
        region: As `objects.region`.
        key_id: As `objects.key_id`.
        secret: As `objects.secret`.
    """
