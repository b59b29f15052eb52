// Signs a sync call, on the site's server. Node 16 or newer, no packages.
//
//     const { signedQuery } = require("./sign.js");
//     const query = signedQuery(key, 12345, customerId);            // "dpid=12345&dpuuid=…&d_sig=…"
//     const image = `https://sync.example.com/ibs:${query}`;
//
// `key` is the first key of the data source's signing_keys_file, the line as it stands there. Keep it on the server: a
// key in a page signs for everybody. Sign only the ID of the customer who is logged in, never one that the browser
// sends. With `uuid`, the d_uuid of the call, the signature holds for that device alone. In HTML write `&` as `&amp;`.
"use strict";

const { createHmac } = require("node:crypto");

function signedQuery(key, dpid, customerId, uuid = "", validSeconds = 600) {
  const [keyId, secret] = key.trim().split(/\s+/);
  const expiry = Math.floor(Date.now() / 1000) + validSeconds;
  const message = `idsync-sync-v1\n${dpid}\n${customerId}\n${uuid}\n${expiry}`;
  const mac = createHmac("sha256", Buffer.from(secret, "hex")).update(message, "utf8").digest("base64url");
  const device = uuid === "" ? "" : `&d_uuid=${uuid}`;
  return `dpid=${dpid}&dpuuid=${encode(customerId)}${device}&d_sig=${keyId}.${expiry}.${mac}`;
}

// encodeURIComponent leaves five characters alone; the apostrophe would end an attribute in HTML.
function encode(value) {
  return encodeURIComponent(value).replace(/[!'()*]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
}

module.exports = { signedQuery };
