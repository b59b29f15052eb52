"""Signs a sync call, on the site's server. Needs nothing but Python 3.

    import sign
    query = sign.signed_query(key, 12345, customer_id)         # "dpid=12345&dpuuid=…&d_sig=…"
    image = "https://sync.example.com/ibs:" + query

`key` is the first key of the data source's signing_keys_file, the line as it stands there. Keep it on the server: a key
in a page signs for everybody. Sign only the ID of the customer who is logged in, never one that the browser sends. With
`uuid`, the d_uuid of the call, the signature holds for that device alone. `&` in HTML is written `&amp;`.
"""

import base64
import hashlib
import hmac
import time
from urllib.parse import quote


def signed_query(key: str, dpid: int, customer_id: str, uuid: str = "", valid_seconds: int = 600) -> str:
    key_id, secret = key.split()
    expiry = int(time.time()) + valid_seconds
    message = f"idsync-sync-v1\n{dpid}\n{customer_id}\n{uuid}\n{expiry}"
    digest = hmac.new(bytes.fromhex(secret), message.encode(), hashlib.sha256).digest()
    mac = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    device = f"&d_uuid={uuid}" if uuid else ""
    return f"dpid={dpid}&dpuuid={quote(customer_id, safe='')}{device}&d_sig={key_id}.{expiry}.{mac}"
