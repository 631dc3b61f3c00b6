"""The base of datasets whose images are stored in encoded form, such as JPEG files."""

from kgen.data.encoded.buckets import Buckets
from kgen.data.encoded.checked import Stamp
from kgen.data.encoded.images import EncodedImages
from kgen.data.splits import Entries

__all__ = ["Buckets", "EncodedImages", "Entries", "Stamp"]
