"""Whether the program knows what the manifests have it do: each container's arguments, with --help at their end."""
import subprocess
import sys

import yaml

program, *files = sys.argv[1:]
wrong = 0
for file in files:
    for document in yaml.safe_load_all(open(file)):
        template = document.get("spec", {}).get("template", {})
        pod = template.get("spec", {})
        for container in pod.get("initContainers", []) + pod.get("containers", []):
            args = container.get("args", [])
            is_ours = container["image"].startswith("outrigger:") or "outrigger" in str(container.get("command"))
            if not is_ours or not args:
                continue
            until = args.index("--") if "--" in args else len(args)
            # References to variables of the container.
            args = [arg.replace("$(POD_IP)", "10.0.0.1").replace("$(", "").replace(")", "") for arg in args[:until]]
            tried = subprocess.run([program, *args, "--help"], capture_output=True, text=True)
            if tried.returncode != 0:
                wrong += 1
                print(f"{file}: {container['name']}: {tried.stderr.strip()}")
if not wrong:
    print("the program knows all flags")
sys.exit(wrong != 0)
