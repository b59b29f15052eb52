"""Moving frozen files to where Audience Manager picks them up, and proving that they arrived."""

from idsync.settings import DirectoryDestination, S3Destination, Settings
from reconcile.delivery.base import Delivery
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.delivery.s3 import S3Delivery


def open_delivery(destination: DirectoryDestination | S3Destination, settings: Settings) -> Delivery:
    if isinstance(destination, DirectoryDestination):
        return DirectoryDelivery(destination.path)
    return S3Delivery(destination, settings.partner or "")
