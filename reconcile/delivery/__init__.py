"""Moving frozen files to where Audience Manager picks them up, and proving that they arrived."""

from collections.abc import Callable

from idsync.settings import AnyDestination, DirectoryDestination, FtpDestination, S3Destination, Settings
from reconcile.delivery.base import Delivery
from reconcile.delivery.courier import Courier, Patience
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.delivery.ftp import FtpDelivery
from reconcile.delivery.turns import InTurn

Opener = Callable[[AnyDestination, Settings], Courier]


def open_delivery(destination: AnyDestination, settings: Settings) -> Courier:
    """Makes no connection yet."""
    delivery = InTurn(connect(destination, settings.partner or ""))
    if isinstance(destination, DirectoryDestination):
        return Courier(delivery, Patience(0))
    return Courier(delivery, Patience(destination.retry_seconds), parallel=destination.parallel)


def connect(destination: AnyDestination, partner: str) -> Delivery:
    """The destination alone, which tries everything once.

    What only one kind needs is loaded with it: boto3 and paramiko take a fifth of a second.
    """
    if isinstance(destination, DirectoryDestination):
        return DirectoryDelivery(destination.path)
    if isinstance(destination, S3Destination):
        from reconcile.delivery.s3 import S3Delivery  # noqa: PLC0415

        return S3Delivery(destination, partner)
    if isinstance(destination, FtpDestination):
        return FtpDelivery(destination)
    from reconcile.delivery.sftp import SftpDelivery  # noqa: PLC0415

    return SftpDelivery(destination)
