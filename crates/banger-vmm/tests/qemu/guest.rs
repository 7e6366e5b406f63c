//! Kernels of a few instructions, so that no test needs a real one.
//!
//! A guest is a list of deeds, put into machine code behind the header of a PVH kernel (a 32-bit
//! ELF file with a note that names its entry), which QEMU boots like any other. Its output goes
//! to the first serial port, as a Linux console's does.
//!
//! Limits: one processor, no interrupts, no memory management, no virtio: nothing answers on the
//! agent's pipe.

/// Where the kernel is loaded and entered.
const LOAD_ADDRESS: u32 = 0x10_0000;
/// Top of the stack, above everything the kernel holds.
const STACK: u32 = 0x20_0000;
const SERIAL: u16 = 0x3f8;

/// What a guest does, one after the other; after the last it halts for good.
#[derive(Clone, Debug)]
pub enum Deed {
    Print(String),
    /// Prints `line NNNNNNNN` (counted from 1) so often, each after `pause` slow instructions:
    /// about a million to the second.
    Count {
        lines: u32,
        pause: u32,
    },
    /// Switches the machine off as ACPI does on q35.
    PowerOff,
    /// Resets it through the chipset.
    Reset,
}

pub fn print(text: &str) -> Deed {
    Deed::Print(text.to_owned())
}

/// The kernel as a file.
pub fn kernel(deeds: &[Deed]) -> Vec<u8> {
    let mut code = Code::new();
    for deed in deeds {
        match deed {
            Deed::Print(text) => {
                let text = code.data(text.as_bytes());
                code.send(text);
            }
            Deed::Count { lines, pause } => code.count(*lines, *pause),
            // PM1a_CNT, SLP_EN with sleep type 0, at the place where the firmware put it.
            Deed::PowerOff => code.bytes(&[
                0x66, 0xba, 0x04, 0x06, // mov dx, 0x604
                0x66, 0xb8, 0x00, 0x20, // mov ax, 0x2000
                0x66, 0xef, // out dx, ax
            ]),
            Deed::Reset => code.bytes(&[
                0x66, 0xba, 0xf9, 0x0c, // mov dx, 0xcf9
                0xb0, 0x06, // mov al, 6
                0xee, // out dx, al
            ]),
        }
    }
    // cli; hlt; jmp to the hlt
    code.bytes(&[0xfa, 0xf4, 0xeb, 0xfd]);
    elf(&code.0)
}

struct Code(Vec<u8>);

/// A text within the code.
#[derive(Clone, Copy)]
struct Text {
    address: u32,
    length: u32,
}

impl Code {
    fn new() -> Self {
        let mut code = Self(Vec::new());
        code.bytes(&[0xfc, 0xbc]); // cld; mov esp, …
        code.word(STACK);
        code
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn word(&mut self, word: u32) {
        self.bytes(&word.to_le_bytes());
    }

    fn here(&self) -> u32 {
        LOAD_ADDRESS + u32::try_from(self.0.len()).unwrap()
    }

    /// Jumps back to `target` with the two-byte instruction `0f XX`.
    fn jump_back(&mut self, opcode: u8, target: u32) {
        self.bytes(&[0x0f, opcode]);
        let after = self.here() + 4;
        self.word(target.wrapping_sub(after));
    }

    /// Puts bytes here and a jump over them before.
    fn data(&mut self, bytes: &[u8]) -> Text {
        let length = u32::try_from(bytes.len()).unwrap();
        self.bytes(&[0xe9]); // jmp
        self.word(length);
        let address = self.here();
        self.bytes(bytes);
        Text { address, length }
    }

    /// Writes a text to the serial port, each byte when the port is ready for it.
    fn send(&mut self, text: Text) {
        self.bytes(&[0xbe]); // mov esi, …
        self.word(text.address);
        self.bytes(&[0xbb]); // mov ebx, …
        self.word(text.length);
        let next = self.here();
        let [low, high] = (SERIAL + 5).to_le_bytes();
        self.bytes(&[0x66, 0xba, low, high]); // mov dx, line status
        self.bytes(&[0xec, 0xa8, 0x20]); // in al, dx; test al, 0x20
        self.jump_back(0x84, next); // jz
        let [low, high] = SERIAL.to_le_bytes();
        self.bytes(&[0x66, 0xba, low, high]); // mov dx, data
        self.bytes(&[0xac, 0xee, 0x4b]); // lodsb; out dx, al; dec ebx
        self.jump_back(0x85, next); // jnz
    }

    fn count(&mut self, lines: u32, pause: u32) {
        let line = self.data(b"line 00000000\n");
        let last_digit = line.address + line.length - 2;
        self.bytes(&[0xb9]); // mov ecx, …
        self.word(lines);
        let again = self.here();
        self.bytes(&[0xbf]); // mov edi, …
        self.word(last_digit);
        self.bytes(&[
            0xfe,
            0x07, // inc byte [edi]
            0x80,
            0x3f,
            b'9' + 1, // cmp byte [edi], '9' + 1
            0x75,
            0x06, // jne over the carry
            0xc6,
            0x07,
            b'0', // mov byte [edi], '0'
            0x4f, // dec edi
            0xeb,
            0xf3, // jmp to the inc
        ]);
        self.send(line);
        self.bytes(&[0xbb]); // mov ebx, …
        self.word(pause.max(1));
        // in al, 0x80; dec ebx; jnz to the in
        self.bytes(&[0xe4, 0x80, 0x4b, 0x75, 0xfb]);
        self.bytes(&[0x49]); // dec ecx
        self.jump_back(0x85, again); // jnz
    }
}

/// A 32-bit ELF file of one segment and one note.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 52;
    const PROGRAM_HEADER: u32 = 32;
    const NOTE_OFFSET: u32 = HEADER + 2 * PROGRAM_HEADER;
    const NOTE_LENGTH: u32 = 20;
    const CODE_OFFSET: u32 = 0x1000;
    let length = u32::try_from(code.len()).unwrap();

    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x01\x01\x01");
    file.resize(16, 0);
    for half in [2_u16, 3] {
        file.extend_from_slice(&half.to_le_bytes()); // executable, i386
    }
    for word in [1, LOAD_ADDRESS, HEADER, 0, 0] {
        file.extend_from_slice(&u32::to_le_bytes(word)); // version, entry, headers, flags
    }
    for half in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        file.extend_from_slice(&u16::try_from(half).unwrap().to_le_bytes());
    }
    for header in [
        // note, readable
        [4, NOTE_OFFSET, 0, 0, NOTE_LENGTH, NOTE_LENGTH, 4, 4],
        // loaded, all access
        [
            1,
            CODE_OFFSET,
            LOAD_ADDRESS,
            LOAD_ADDRESS,
            length,
            length,
            7,
            0x1000,
        ],
    ] {
        for word in header {
            file.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    // XEN_ELFNOTE_PHYS32_ENTRY: where to enter in protected mode, paging off.
    for word in [4, 4, 18] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&LOAD_ADDRESS.to_le_bytes());
    file.resize(CODE_OFFSET as usize, 0);
    file.extend_from_slice(code);
    file
}
