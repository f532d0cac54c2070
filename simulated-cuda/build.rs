//! Names the library as the driver is named, so that a process that has loaded it gets it again when it
//! asks for `libcuda.so`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
