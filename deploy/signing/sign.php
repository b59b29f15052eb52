<?php
// Signs a sync call, on the site's server. PHP 7 or newer, no extension.
//
//     require 'sign.php';
//     $query = idsync_signed_query($key, 12345, $customerId);       // "dpid=12345&dpuuid=…&d_sig=…"
//     echo '<img src="https://sync.example.com/ibs:' . htmlspecialchars($query) . '" width="1" height="1" alt="">';
//
// $key is the first key of the data source's signing_keys_file, the line as it stands there. Keep it on the server: a
// key in a page signs for everybody. Sign only the ID of the customer who is logged in, never one that the browser
// sends. With $uuid, the d_uuid of the call, the signature holds for that device alone.

function idsync_signed_query(
    string $key,
    int $dpid,
    string $customerId,
    string $uuid = '',
    int $validSeconds = 600
): string {
    [$keyId, $secret] = preg_split('/\s+/', trim($key));
    $expiry = time() + $validSeconds;
    $message = "idsync-sync-v1\n$dpid\n$customerId\n$uuid\n$expiry";
    $digest = hash_hmac('sha256', $message, hex2bin($secret), true);
    $mac = rtrim(strtr(base64_encode($digest), '+/', '-_'), '=');
    $device = $uuid === '' ? '' : "&d_uuid=$uuid";
    return "dpid=$dpid&dpuuid=" . rawurlencode($customerId) . "$device&d_sig=$keyId.$expiry.$mac";
}
