//! What several layers become together.

use crate::image::Image;
use crate::script::{layer, render};

/// Name, layers from the lowest, tree.
pub type Case = (&'static str, &'static [&'static str], &'static str);

/// Cases in which umoci agrees: `peers` shows them to it.
pub const CASES: &[Case] = &[
    ("no layer", &[], ""),
    ("an empty layer", &[""], ""),
    ("implicit parents", &["f a/b/c=1"], "d a; d a/b; f a/b/c=1"),
    (
        "a directory after its content",
        &["f a/b=1; d a=700"],
        "d a=700; f a/b=1",
    ),
    (
        "names with dots and slashes",
        &["d ./; d ./a/; f /a//b=1; f ././a/./c=2"],
        "d a; f a/b=1; f a/c=2",
    ),
    ("an entry twice", &["f a=1; f a=2"], "f a=2"),
    ("a file replaced", &["f a=1", "f a=2"], "f a=2"),
    (
        "a file becomes a directory",
        &["f a=1", "d a; f a/b=2"],
        "d a; f a/b=2",
    ),
    (
        "a directory becomes a file",
        &["f a/b/c=1", "f a=2"],
        "f a=2",
    ),
    (
        "a directory becomes a symlink",
        &["f a/b=1; d c", "s a=c"],
        "s a=c; d c",
    ),
    (
        "a symlink becomes a directory",
        &["d c; s a=c", "d a; f a/b=1"],
        "d a; f a/b=1; d c",
    ),
    (
        "there and back",
        &["f a=1", "d a; f a/b=2; f .wh.a=", "f a=3"],
        "f a=3",
    ),
    (
        "a directory's mode changes",
        &["f a/b=1", "d a=700"],
        "d a=700; f a/b=1",
    ),
    (
        "a whiteout",
        &["f a/b=1; f a/c=2", "f a/.wh.b="],
        "d a; f a/c=2",
    ),
    ("a whiteout of a directory", &["f a/b/c=1", "f .wh.a="], ""),
    (
        "a whiteout of nothing",
        &["f a=1", "f .wh.b=; f x/y/.wh.z="],
        "f a=1",
    ),
    (
        "a whiteout spares its own layer",
        &["f a=1", "f a=2; f .wh.a="],
        "f a=2",
    ),
    (
        "a whiteout before its own layer",
        &["f a=1", "f .wh.a=; f a=2"],
        "f a=2",
    ),
    (
        "a whiteout spares what is new below",
        &["f a/b=1; f a/c/d=2", "d a=700; f a/c/e=3; f .wh.a="],
        "d a=700; d a/c; f a/c/e=3",
    ),
    (
        "a whiteout before what is new below",
        &["f a/b=1; f a/c/d=2", "f .wh.a=; d a=700; f a/c/e=3"],
        "d a=700; d a/c; f a/c/e=3",
    ),
    (
        "an opaque directory, marker first",
        &["f a/b=1; f a/c/d=2", "d a=700; f a/.wh..wh..opq=; f a/e=3"],
        "d a=700; f a/e=3",
    ),
    (
        "an opaque directory, marker last",
        &[
            "f a/b=1; f a/c/d=2",
            "d a=700; f a/e=3; f a/c/f=4; f a/.wh..wh..opq=",
        ],
        "d a=700; d a/c; f a/c/f=4; f a/e=3",
    ),
    (
        "nested opaque directories",
        &[
            "f a/b/c/d=1; f a/x=1",
            "f a/b/c/n=2; f a/.wh..wh..opq=; f a/b/.wh..wh..opq=; f a/b/c/.wh..wh..opq=",
        ],
        "d a; d a/b; d a/b/c; f a/b/c/n=2",
    ),
    (
        "an opaque root",
        &["f a=1; f b/c=2", "f b/d=3; f .wh..wh..opq="],
        "d b; f b/d=3",
    ),
    (
        "opaque again in the next layer",
        &[
            "f a/b=1",
            "f a/.wh..wh..opq=; f a/c=2",
            "f a/.wh..wh..opq=; f a/d=3",
        ],
        "d a; f a/d=3",
    ),
    ("a hard link", &["f a=1; h b=a"], "f a=1#2; f b=1#2"),
    (
        "a hard link across layers",
        &["f a=1", "h d/b=a"],
        "f a=1#2; d d; f d/b=1#2",
    ),
    (
        "a hard link made twice",
        &["f a=1; h b=a; h b=a"],
        "f a=1#2; f b=1#2",
    ),
    (
        "a hard link to a symlink",
        &["s a=x; h b=a"],
        "s a=x#2; s b=x#2",
    ),
    (
        "one of two names is replaced",
        &["f a=1; h b=a", "f a=2"],
        "f a=2; f b=1",
    ),
    (
        "one of two names is whited out",
        &["f a=1; h b=a; h c=a", "f .wh.a="],
        "f b=1#2; f c=1#2",
    ),
    (
        "a lower file under a new name survives an opaque marker",
        &["f d/a=1", "h d/b=d/a; f d/.wh..wh..opq="],
        "d d; f d/b=1",
    ),
    (
        "a new file under a lower name goes with it",
        &[
            "f d/a=1; f e/x=1",
            "f d/a=2; h e/x=d/a",
            "f d/.wh..wh..opq=",
        ],
        "d d; d e; f e/x=2",
    ),
    (
        "a lower name of a new link target goes",
        &["f d/a=1; f d/b=2", "f d/n=3; h d/m=d/a; f d/.wh.a="],
        "d d; f d/b=2; f d/m=1; f d/n=3",
    ),
    (
        "a relative symlink as parent",
        &["d usr/lib; s lib=usr/lib", "f lib/b=1"],
        "s lib=usr/lib; d usr; d usr/lib; f usr/lib/b=1",
    ),
    (
        "an absolute symlink as parent",
        &["d usr/lib; s lib=/usr/lib", "f lib/x/b=1"],
        "s lib=/usr/lib; d usr; d usr/lib; d usr/lib/x; f usr/lib/x/b=1",
    ),
    (
        "a chain of symlinks with dots",
        &["d a/b; s a/up=..; s l=a/up/a/b; s m=./l", "f m/f=1"],
        "d a; d a/b; f a/b/f=1; s a/up=..; s l=a/up/a/b; s m=./l",
    ),
    (
        "a symlink out of the root stays inside",
        &["d etc; s out=../../../etc", "f out/f=1"],
        "d etc; f etc/f=1; s out=../../../etc",
    ),
    (
        "a dangling symlink as parent",
        &["s l=made/here; f l/f=1"],
        "s l=made/here; d made; d made/here; f made/here/f=1",
    ),
    (
        "a whiteout through a symlinked parent",
        &[
            "f usr/lib/b=1; f usr/lib/c=2; s lib=usr/lib",
            "f lib/.wh.b=",
        ],
        "s lib=usr/lib; d usr; d usr/lib; f usr/lib/c=2",
    ),
    (
        "an opaque marker through a symlinked parent",
        &[
            "f usr/lib/b=1; s lib=usr/lib",
            "f lib/.wh..wh..opq=; f lib/c=2",
        ],
        "s lib=usr/lib; d usr; d usr/lib; f usr/lib/c=2",
    ),
    (
        "a hard link through symlinked parents",
        &["f usr/lib/b=1; s lib=usr/lib", "h lib/c=lib/b"],
        "s lib=usr/lib; d usr; d usr/lib; f usr/lib/b=1#2; f usr/lib/c=1#2",
    ),
    (
        "a whiteout of a symlink",
        &["f a/b=1; s l=a", "f .wh.l="],
        "d a; f a/b=1",
    ),
    (
        "a symlink moved under the same parents",
        &["d x; d y; s l=x", "f l/1=1; s l=y; f l/2=2"],
        "s l=y; d x; f x/1=1; d y; f y/2=2",
    ),
    (
        "a directory remade in one layer",
        &["f a/b=1; f .wh.x=; f a=2; d a; f a/c=3"],
        "d a; f a/c=3",
    ),
];

/// Cases in which umoci fails or leaves something behind.
const OWN_CASES: &[Case] = &[
    (
        "a lower file as parent becomes a directory",
        &["f a=1", "f a/b=2"],
        "d a; f a/b=2",
    ),
    ("a link to itself", &["f a=1", "h a=a"], "f a=1"),
    (
        "a link takes its target out of what it replaces",
        &["f a/b=1", "h a=a/b"],
        "f a=1",
    ),
    (
        "bookkeeping of aufs",
        &["f .wh..wh.aufs=; d .wh..wh.plnk; f .wh..wh.plnk/1.2=x; f a/.wh..wh.orph/b=; f c=1"],
        "f c=1",
    ),
];

#[test]
fn trees() {
    for (name, layers, expected) in CASES.iter().chain(OWN_CASES) {
        let layers: Vec<_> = layers.iter().map(|text| layer(text)).collect();
        let (file, _) = crate::base(&layers).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(&render(&Image::open(&file).files()), expected, "{name}");
    }
}
