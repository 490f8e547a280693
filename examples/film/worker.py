"""Serves the queue `render` of a dacapo host, with Python's standard library alone."""
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

HOST = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7007"
HEADERS = {"content-type": "application/json"}
if token := os.environ.get("DACAPO_TOKEN"):
    HEADERS["authorization"] = f"Bearer {token}"
TLS = ssl.create_default_context(cafile=os.environ.get("DACAPO_CA"))


def post(path, **body):
    request = urllib.request.Request(f"{HOST}/api/v1/{path}", json.dumps(body).encode(), HEADERS)
    with urllib.request.urlopen(request, timeout=90, context=TLS) as answer:
        return json.load(answer)


def render(task):
    frame = task["input"]
    for step in range((task["last_heartbeat"] or 0) + 1, frame["steps"] + 1):
        said = post("tasks/heartbeat", tasks=[{"token": task["token"], "progress": step}])
        if said["tasks"][0]["answer"] != "continue":
            return None
    return f"{frame['title']}/{frame['number']:04}.png"


def register():
    return post("workers", name="worker.py", queues=["render"], activities=["renderer.render"])["worker"]


worker = register()
while True:
    try:
        tasks = post(f"workers/{worker}/claim", max=4, wait_ms=20000, lease_ms=30000)["tasks"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        worker = register()  # The host was restarted.
        continue
    for task in tasks:
        try:
            post("tasks/complete", tasks=[{"token": task["token"], "output": render(task)}])
        except (KeyError, TypeError) as error:
            post("tasks/fail", tasks=[{"token": task["token"], "error_type": "BadFrame", "message": repr(error)}])
