"""A sync endpoint as one writes it in an afternoon: Flask, redis-py, a key a customer. Run: gunicorn, gthread."""

import os
import secrets
from urllib.parse import parse_qs

import redis
from flask import Flask, Response, request

from idsync.reply import PIXEL

TTL_SECONDS = 120 * 86_400

app = Flask(__name__)
client = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.get("/ibs:<path:parameters>")
def sync(parameters: str) -> Response:
    given = parse_qs(parameters)
    uuid = request.cookies.get("idsync") or f"{secrets.randbelow(10**38):038d}"
    key = f"ids:{given['dpid'][0]}:{given['dpuuid'][0]}"
    client.hset(key, "uuid", uuid)
    client.expire(key, TTL_SECONDS)
    answer = Response(PIXEL, mimetype="image/gif", headers={"Cache-Control": "no-store"})
    answer.set_cookie("idsync", uuid, max_age=TTL_SECONDS, secure=True, httponly=True, samesite="None")
    return answer
